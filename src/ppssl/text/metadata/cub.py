"""Corpus of CUB-200-2011's binary attributes (Wah et al., Technical Report CNS-TR-2011-001) as sentences."""

from __future__ import annotations

import re
from pathlib import Path

from ppssl.data.sets.tables import Row, read_numbered
from ppssl.utils.errors import UserError

__all__ = ["attribute_sentence", "cub_attributes"]

_COLOURED = {
    "wing": "a bird with {} wings",
    "upperparts": "a bird with {} upperparts",
    "underparts": "a bird with {} underparts",
    "back": "a bird with {a} {} back",
    "upper_tail": "a bird with {a} {} tail, seen from above",
    "under_tail": "a bird with {a} {} tail, seen from below",
    "breast": "a bird with {a} {} breast",
    "throat": "a bird with {a} {} throat",
    "eye": "a bird with {} eyes",
    "forehead": "a bird with {a} {} forehead",
    "nape": "a bird with {a} {} nape",
    "belly": "a bird with {a} {} belly",
    "primary": "a bird whose plumage is mainly {}",
    "leg": "a bird with {} legs",
    "bill": "a bird with {a} {} bill",
    "crown": "a bird with {a} {} crown",
}
_PATTERNED = {
    "solid": "a bird with {a} {part} of one plain colour",
    "spotted": "a bird with {a} {part} marked with spots",
    "striped": "a bird with {a} {part} marked with stripes",
    "multi-colored": "a bird with {a} {part} of several colours",
}
_SPECIAL = {
    "bill_shape::curved_(up_or_down)": "a bird with a curved bill",
    "bill_shape::dagger": "a bird with a dagger-shaped bill",
    "bill_shape::hooked": "a bird with a hooked bill",
    "bill_shape::needle": "a bird with a needle-like bill",
    "bill_shape::hooked_seabird": "a bird with the strong, hooked bill of a seabird",
    "bill_shape::spatulate": "a bird with a broad, spoon-shaped bill",
    "bill_shape::all-purpose": "a bird with an all-purpose bill, neither thick nor long",
    "bill_shape::cone": "a bird with a cone-shaped bill",
    "bill_shape::specialized": "a bird with a bill of an unusual, specialised shape",
    "bill_length::about_the_same_as_head": "a bird with a bill about as long as its head",
    "bill_length::longer_than_head": "a bird with a bill longer than its head",
    "bill_length::shorter_than_head": "a bird with a bill shorter than its head",
    "head_pattern::spotted": "a bird with spots on its head",
    "head_pattern::malar": "a bird with a malar stripe from the bill down the side of the throat",
    "head_pattern::crested": "a bird with a crest",
    "head_pattern::masked": "a bird with a mask over its eyes",
    "head_pattern::unique_pattern": "a bird with a head pattern unlike that of others",
    "head_pattern::eyebrow": "a bird with a stripe above the eye",
    "head_pattern::eyering": "a bird with a ring around the eye",
    "head_pattern::plain": "a bird with a plain, unmarked head",
    "head_pattern::eyeline": "a bird with a line through the eye",
    "head_pattern::striped": "a bird with a striped head",
    "head_pattern::capped": "a bird with a cap on its head",
    "shape::upright-perching_water-like": "a water bird that perches upright",
    "shape::chicken-like-marsh": "a marsh bird shaped like a chicken",
    "shape::long-legged-like": "a long-legged bird",
    "shape::tree-clinging-like": "a bird that clings to trees",
    "shape::upland-ground-like": "a ground bird of dry uplands",
    "shape::perching-like": "a perching bird",
}
_SIZE = re.compile(r"(?P<word>[a-z_]+)_\((?P<low>\d+)_-_(?P<high>\d+)_in\)")
_ATTRIBUTE = re.compile(r"has_(?P<group>[a-z][a-z_]*)::(?P<value>\S+)")


def cub_attributes(root: Path) -> list[tuple[str, ...]]:
    """Make a sentence for each of CUB's binary attributes, 312 in the published file.

    Args:
        root: Folder of ``attributes.txt`` (in the archive it is next to ``CUB_200_2011/``), or ``CUB_200_2011`` itself.

    Raises:
        UserError: The file is missing, or a line is not ``<number> has_<part>::<value>``.
    """
    folders = [root, root / "attributes", root / "CUB_200_2011", root / "CUB_200_2011/attributes"]
    if root.name == "CUB_200_2011":
        folders.append(root.parent)
    file = next((f / "attributes.txt" for f in folders if (f / "attributes.txt").is_file()), None)
    if file is None:
        raise UserError(
            f"The corpus `cub-attributes` is made from CUB's attributes.txt, but {root} has none: copy it from the "
            "archive, where it is next to CUB_200_2011/."
        )
    sentences: dict[str, int] = {}
    for row in read_numbered(file, 2):
        sentence = attribute_sentence(row)
        if sentence in sentences:
            row.raise_error(
                f"{row.fields[1]!r} makes the same sentence as line {sentences[sentence]}"
            )
        sentences[sentence] = row.line
    return [(sentence,) for sentence in sentences]


def attribute_sentence(row: Row) -> str:
    """Make the sentence of an attribute ``has_<group>::<value>``; unknown groups and values are spelt out."""
    name = row.fields[1]
    match = _ATTRIBUTE.fullmatch(name)
    if match is None:
        row.raise_error(
            f"{name!r} must have the form has_<part>::<value>, such as has_bill_shape::dagger"
        )
    group, value = match["group"], match["value"]
    if f"{group}::{value}" in _SPECIAL:
        return _SPECIAL[f"{group}::{value}"]
    part, _, kind = group.rpartition("_")
    plain = value.replace("_", " ")
    if kind == "color" and part in _COLOURED:
        return _COLOURED[part].format(plain, a=_article(plain))
    if kind == "pattern" and value in _PATTERNED:
        sentence = _PATTERNED[value].format(a=_article(part), part=part.replace("_", " "))
        return sentence.replace("a wing ", "wings ")
    if group == "tail_shape":
        return f"a bird with {_article(plain)} {plain}"
    if group == "wing_shape":
        return f"a bird with {plain.replace('-wings', ' wings')}"
    size = _SIZE.fullmatch(value)
    if group == "size" and size is not None:
        return (
            f"a {size['word'].replace('_', ' ')} bird, {size['low']} to {size['high']} inches long"
        )
    if group == "shape" and value.endswith("-like"):
        like = plain.removesuffix("-like")
        return f"a bird shaped like {_article(like)} {like}"
    return f"a bird whose {group.replace('_', ' ')} is {plain}"


def _article(word: str) -> str:
    return "an" if word[:1] in "aeiou" else "a"
