"""Corpora made from the metadata of CUB, Cars and Aircraft; those of Cars and Aircraft name the classes."""

from __future__ import annotations

from collections.abc import Sequence

from ppssl.text.metadata.aircraft import aircraft_hierarchy
from ppssl.text.metadata.cars import cars_names
from ppssl.text.metadata.cub import cub_attributes
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, expand

__all__ = ["METADATA_CORPORA", "metadata_descriptions"]

_FROM_FOLDER = {"aircraft-hierarchy": aircraft_hierarchy, "cub-attributes": cub_attributes}
METADATA_CORPORA = ("aircraft-hierarchy", "cars-names", "cub-attributes")


def metadata_descriptions(
    name: str, *, root: AnyPath | None = None, classes: Sequence[str] = ()
) -> list[tuple[str, ...]]:
    """Make the descriptions of one of :data:`METADATA_CORPORA`, each with its phrasings.

    Args:
        name: Name of the corpus.
        root: The data set's folder, for ``cub-attributes`` and ``aircraft-hierarchy``.
        classes: The data set's class names, for ``cars-names``.

    Raises:
        UserError: The metadata is missing or malformed; the message has file and line.
    """
    if name == "cars-names":
        return cars_names(classes)
    if root is None:
        raise UserError(
            f"The corpus `{name}` is made from files of the data set: set `root` to its folder, or use a data module "
            "that has a `root`."
        )
    return _FROM_FOLDER[name](expand(root))
