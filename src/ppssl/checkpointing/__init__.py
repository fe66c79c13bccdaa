"""Checkpoints: writing, reading and resuming from them."""
