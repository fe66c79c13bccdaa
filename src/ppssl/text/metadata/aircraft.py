"""FGVC-Aircraft's hierarchy (Maji et al., arXiv 1306.5151): variant, family, manufacturer."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ppssl.data.sets.tables import Row, read_rows
from ppssl.utils.errors import UserError

__all__ = ["aircraft_hierarchy"]


def aircraft_hierarchy(root: Path) -> list[tuple[str, ...]]:
    """A description a variant of FGVC-Aircraft with its family and manufacturer, and one for each of those.

    Which family a variant belongs to is nowhere stated but by the images: each is listed once a level.

    Args:
        root: The folder that holds ``fgvc-aircraft-2013b/``, or that folder, or its ``data/``.

    Raises:
        UserError: A list is missing, or the lists of two levels do not agree, with file and line.
    """
    places = [root / "fgvc-aircraft-2013b" / "data", root / "data", root]
    data = next((p for p in places if (p / "images_variant_trainval.txt").is_file()), None)
    if data is None:
        raise UserError(
            "The corpus `aircraft-hierarchy` is made from FGVC-Aircraft's lists, and "
            f"{root} has no images_variant_trainval.txt: name the folder of fgvc-aircraft-2013b."
        )
    variants = _entries(data, "variant")
    above = {
        level: _parents(variants, _entries(data, level)) for level in ("family", "manufacturer")
    }
    descriptions: list[tuple[str, ...]] = []
    for variant in sorted({row.fields[1] for row in variants.values()}):
        family, maker = above["family"][variant], above["manufacturer"][variant]
        full = _with_maker(maker, variant)
        descriptions.append(
            (
                f"a photo of the {full}, a type of aircraft",
                f"the {full} of the {family} family, made by {maker}",
            )
        )
    families = defaultdict(set)
    for variant, family in above["family"].items():
        families[family].add(above["manufacturer"][variant])
    return [
        *descriptions,
        *(
            (f"an aircraft of the {_with_maker(min(makers), family)} family",)
            for family, makers in sorted(families.items())
        ),
        *((f"an aircraft made by {m}",) for m in sorted(set(above["manufacturer"].values()))),
    ]


def _entries(data: Path, level: str) -> dict[str, Row]:
    """The rows of a level's list by image."""
    entries: dict[str, Row] = {}
    for row in read_rows(data / f"images_{level}_trainval.txt", 2, rest=True):
        if row.fields[0] in entries:
            row.raise_error(f"image {row.fields[0]} is in line {entries[row.fields[0]].line} already")
        entries[row.fields[0]] = row
    return entries


def _parents(below: dict[str, Row], above: dict[str, Row]) -> dict[str, str]:
    """The class above each class, by the images that they share."""
    parents: dict[str, str] = {}
    for image, row in below.items():
        if image not in above:
            name = next(iter(above.values())).file.name
            row.raise_error(f"image {image} is not in {name}")
        parent = parents.setdefault(row.fields[1], above[image].fields[1])
        if parent != above[image].fields[1]:
            above[image].raise_error(
                f"{row.fields[1]!r} belongs to {above[image].fields[1]!r} here and to {parent!r} elsewhere"
            )
    return parents


def _with_maker(maker: str, name: str) -> str:
    """``Boeing 737-200``, and not ``Cessna Cessna 172``."""
    first = maker.split()[0].casefold()
    return name if name.casefold().startswith(first) else f"{maker} {name}"
