"""Corpus of FGVC-Aircraft's class hierarchy (Maji et al., arXiv 1306.5151): variant, family, manufacturer."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ppssl.data.sets.tables import Row, read_rows
from ppssl.utils.errors import UserError

__all__ = ["aircraft_hierarchy"]


def aircraft_hierarchy(root: Path) -> list[tuple[str, ...]]:
    """Make a description of each variant with its family and manufacturer, and of each family and manufacturer.

    The family of a variant is stated only by the images, each of which is listed once per level.

    Args:
        root: Folder of ``fgvc-aircraft-2013b/``, or that folder, or its ``data/``.

    Raises:
        UserError: A list is missing, or the lists of two levels disagree; the message has file and line.
    """
    places = [root / "fgvc-aircraft-2013b" / "data", root / "data", root]
    data = next((p for p in places if (p / "images_variant_trainval.txt").is_file()), None)
    if data is None:
        raise UserError(
            "The corpus `aircraft-hierarchy` is made from FGVC-Aircraft's lists, but "
            f"{root} has no images_variant_trainval.txt: set `root` to the folder of fgvc-aircraft-2013b."
        )
    variants = _entries(data, "variant")
    parents = {
        level: _parents(variants, _entries(data, level)) for level in ("family", "manufacturer")
    }
    descriptions: list[tuple[str, ...]] = []
    for variant in sorted({row.fields[1] for row in variants.values()}):
        family, maker = parents["family"][variant], parents["manufacturer"][variant]
        full = _with_maker(maker, variant)
        descriptions.append(
            (
                f"a photo of the {full}, a type of aircraft",
                f"the {full} of the {family} family, made by {maker}",
            )
        )
    makers_of = defaultdict(set)
    for variant, family in parents["family"].items():
        makers_of[family].add(parents["manufacturer"][variant])
    for family, makers in sorted(makers_of.items()):
        descriptions.append((f"an aircraft of the {_with_maker(min(makers), family)} family",))
    for maker in sorted(set(parents["manufacturer"].values())):
        descriptions.append((f"an aircraft made by {maker}",))
    return descriptions


def _entries(data: Path, level: str) -> dict[str, Row]:
    """Read the rows of a level's list, by image."""
    entries: dict[str, Row] = {}
    for row in read_rows(data / f"images_{level}_trainval.txt", 2, rest=True):
        if row.fields[0] in entries:
            row.raise_error(
                f"image {row.fields[0]} is already in line {entries[row.fields[0]].line}"
            )
        entries[row.fields[0]] = row
    return entries


def _parents(below: dict[str, Row], above: dict[str, Row]) -> dict[str, str]:
    """Parent class of each class: the class of the upper level that its images have."""
    parents: dict[str, str] = {}
    upper_file = next(iter(above.values())).file.name
    for image, row in below.items():
        if image not in above:
            row.raise_error(f"image {image} is not in {upper_file}")
        parent = parents.setdefault(row.fields[1], above[image].fields[1])
        if parent != above[image].fields[1]:
            above[image].raise_error(
                f"{row.fields[1]!r} belongs to {above[image].fields[1]!r} here and to {parent!r} elsewhere"
            )
    return parents


def _with_maker(maker: str, name: str) -> str:
    """Put the manufacturer before a name (``Boeing 737-200``), unless the name starts with it (``Cessna 172``)."""
    first = maker.split()[0].casefold()
    return name if name.casefold().startswith(first) else f"{maker} {name}"
