"""Figures; depends on torch, numpy and matplotlib only."""
