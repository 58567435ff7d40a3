"""Where the sender runs: one strategy per concurrency, each only starts and waits."""
