"""Benchmark of the data loader: images per second of our views and of other libraries (``ppssl bench loader``)."""
