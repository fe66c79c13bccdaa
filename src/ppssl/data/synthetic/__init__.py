"""Synthetic birds: a procedurally drawn fine-grained data set with masks of all parts."""
