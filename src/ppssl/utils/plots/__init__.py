"""Figures. Knows only torch, numpy and matplotlib."""
