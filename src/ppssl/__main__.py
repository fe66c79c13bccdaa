"""``python -m ppssl``."""

from ppssl.cli.main import run

run()
