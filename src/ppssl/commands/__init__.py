"""One thin file a command, over the Python function that does the work."""
