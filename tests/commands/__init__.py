"""The subcommands: what they print, how they end, and that nothing in a task's name is obeyed."""
