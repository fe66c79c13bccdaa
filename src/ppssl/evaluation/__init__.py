"""Evaluation protocols: kNN, retrieval, linear probe and classification accuracy, with confidence intervals."""
