"""Shared utilities: errors, configurations, random numbers, results, devices and processes."""
