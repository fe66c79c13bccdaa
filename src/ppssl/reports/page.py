"""``report``: make one page, which needs no network, of a run or of two runs side by side."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from lightning.pytorch.utilities import rank_zero_info
from markupsafe import Markup

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.inference.data_set import data_for
from ppssl.reports.measured import Measured, measure
from ppssl.reports.pictures import Pictures
from ppssl.reports.run import Run, find_run
from ppssl.reports.section import Section
from ppssl.reports.sections import (
    confusions,
    curves,
    data_set,
    descriptions,
    duplicates,
    embedding_map,
    metrics,
    neighbours,
    saliency,
    settings,
)
from ppssl.utils.errors import UserError
from ppssl.utils.paths import PATH_TYPES, AnyPath, writable_file, write_whole
from ppssl.utils.results import finite_or_null, provenance, without_paths

__all__ = ["render", "report"]

_STYLE, _SCRIPT = "style.css", "page.js"
"""Files beside the templates that are put into the page."""


def report(
    runs: AnyPath | Sequence[AnyPath],
    data: FineGrainedDataModule | Sequence[FineGrainedDataModule] | None = None,
    *,
    out: AnyPath = "report.html",
    device: str = "auto",
) -> Path:
    """Write a page on a run, or on two runs side by side.

    The page is one file, which opens from the disk and asks for nothing from a network: what was trained on what, the
    results of :func:`ppssl.evaluate` before and after with intervals, learning curves, nearest neighbours, confused
    classes, a map of the embedding, saliency maps, descriptions of AIS, duplicates, doubtful labels, and the settings.

    Args:
        runs: A run or two: the folder of a run, or a checkpoint.
        data: The data set, or one for each run; ``None``: that of each checkpoint.
        out: The page, an ``.html`` file; replaced in one step.
        device: Device of the encoders; ``"auto"``: a GPU if there is one.

    Returns:
        The path of the page.

    Raises:
        UserError: A run cannot be found or read, has no data set, or the page cannot be written.
    """
    out = writable_file(out)
    paths = [runs] if isinstance(runs, PATH_TYPES) else list(runs)
    if len(paths) not in (1, 2):
        raise UserError(f"A page shows one run or two, got {len(paths)}.")
    found = _told_apart([find_run(path) for path in paths])
    sets = list(data) if isinstance(data, Sequence) else [data] * len(found)
    measured = []
    for run, one in zip(found, sets, strict=True):
        with _named(run) if len(found) > 1 else nullcontext():
            measured.append(measure(run, data_for(run.checkpoint, one), device=device))
    title = " and ".join(m.run.name for m in measured)
    results = [_results(m) for m in measured if m.results is not None]
    write_whole(out, render(title, _sections(measured), results, command="report"))
    return out


@contextmanager
def _named(run: Run) -> Iterator[None]:
    """Say which run is read; its warnings, which come when all are known, and user errors begin with its name."""
    rank_zero_info(f"{run.name}: {run.checkpoint}")
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield
    except UserError as error:
        raise UserError(f"{run.name}: {error}") from error
    finally:
        for one in caught:
            text = f"{run.name}: {one.message}"
            warnings.warn_explicit(text, one.category, one.filename, one.lineno)


def _told_apart(runs: list[Run]) -> list[Run]:
    """Runs with names of their own: of the folders around them too if they have the same, else A and B."""
    if len({run.name for run in runs}) == len(runs):
        return runs
    folders = [_folder(run) for run in runs]
    for count in range(2, min(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if names[0] != names[1]:
            break
    else:
        names = [f"{run.name} {mark}" for run, mark in zip(runs, "AB", strict=True)]
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _folder(run: Run) -> Path:
    """The folder that a run is named by, or else that of its checkpoint."""
    parents = run.checkpoint.resolve().parents
    return next((folder for folder in parents if folder.name == run.name), parents[0])


def _sections(runs: Sequence[Measured]) -> list[Section]:
    pictures = {m.run.name: Pictures(m.data) for m in runs}
    return [
        data_set.section(runs, pictures),
        metrics.section(runs),
        curves.section(runs),
        neighbours.section(runs, pictures),
        confusions.section(runs, pictures),
        embedding_map.section(runs, pictures),
        saliency.section(runs, pictures),
        descriptions.section(runs, pictures),
        duplicates.duplicates(runs, pictures),
        duplicates.labels(runs, pictures),
        settings.section(runs),
    ]


def render(
    title: str, sections: Sequence[Section], results: Sequence[dict[str, Any]] = (), *, command: str
) -> str:
    """The page of some sections.

    Args:
        title: Its heading.
        sections: Its sections, in order.
        results: Results of evaluations that the page holds as JSON.
        command: Name of the command that makes it.
    """
    environment = Environment(
        loader=PackageLoader("ppssl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    folder = files("ppssl.reports") / "templates"
    page = environment.get_template("page.html.j2").render(
        title=title,
        sections=sections,
        results=results,
        command=command,
        version=provenance()["versions"].get("ppssl", ""),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        style=Markup((folder / _STYLE).read_text()),  # files of the package
        script=Markup((folder / _SCRIPT).read_text()),
    )
    # names of files may hold bytes that are no text
    return re.sub(r"\n\s*\n+", "\n", page).encode("utf-8", "replace").decode()


def _results(measured: Measured) -> dict[str, Any]:
    """What ``ppssl evaluate --json`` writes, without the paths of this machine."""
    if measured.results is None:
        return {}
    results = measured.results.to_dict()
    return finite_or_null(results | {"config": without_paths(results["config"])})
