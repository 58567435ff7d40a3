"""``sluice demo``: real workers, a real broker and a local ingest endpoint, shown live.

It proves on the user's own machine what the package promises: every task that was sent
has a complete timeline at the other end, in every pool, with `sluice.init()` alone.
"""
