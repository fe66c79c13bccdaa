"""One thin file for each command, over the Python function that does the work."""
