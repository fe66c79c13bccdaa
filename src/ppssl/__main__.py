"""``python -m ppssl``."""

from ppssl.cli import run

run()
