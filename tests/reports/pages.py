"""A tiny run on images, and what its page says, for the tests of the report."""

import html
import json
import re
from pathlib import Path
from typing import Any

from command_line import fit_arguments
from ppssl.cli.main import main


def train(images: Path, folder: Path, *more: str) -> Path:
    """Run ``ppssl fit`` for a few steps; the folder of the run."""
    options = ["--trainer.log_every_n_steps=1", *more]
    assert main(fit_arguments(images, folder, *options)) == 0
    return folder


def make(run: Path, out: Path, *more: str) -> str:
    """Run ``ppssl report``; the page."""
    assert main(["report", str(run), "--out", str(out), *more]) == 0
    return out.read_text()


def results(page: str, number: int = 1) -> dict[str, Any]:
    """The results that the page holds for programs."""
    pattern = rf'<script type="application/json" id="results-{number}">(.*?)</script>'
    (found,) = re.findall(pattern, page, flags=re.DOTALL)
    return dict(json.loads(found))


def section(page: str, name: str) -> str:
    """The text of a section, without tags, of one line."""
    (found,) = re.findall(rf'<section id="{name}".*?</section>', page, flags=re.DOTALL)
    found = re.sub(r"<(style|script).*?</\1>", " ", found, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found)).split())


def headings(page: str) -> list[str]:
    """The names of the sections."""
    return re.findall(r'<section id="(\w+)"', page)
