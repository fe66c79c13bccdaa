"""Synthetic birds: a fine-grained data set that is drawn, not read, and in which everything is known."""
