"""Evaluation protocols: kNN, retrieval and linear probe, with confidence intervals."""
