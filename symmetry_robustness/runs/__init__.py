"""One run: its directory, process, ranks, signals, resuming."""
