"""Classifiers: fine-tuning, and the linear probe of the literature."""
