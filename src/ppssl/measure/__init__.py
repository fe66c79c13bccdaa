"""Measuring what a choice does: grids of runs, their comparison, and what a step costs."""
