"""Checkpoints: what is written and read, when, and how a run is resumed."""
