"""Command line of ppssl."""
