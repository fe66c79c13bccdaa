"""Callbacks that serve every method."""
