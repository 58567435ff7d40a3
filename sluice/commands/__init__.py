"""The subcommands of ``sluice`` that run, read and examine: dev, tasks, tail, doctor.

Programs that use the package, as the demo does: nothing of the SDK imports them.  The modules
that only describe options import nothing heavy, so that every other subcommand starts fast.
"""
