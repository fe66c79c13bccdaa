"""Cleaning of a language model's answer: one sentence per line, without list markers and class names."""

from __future__ import annotations

import re
from itertools import pairwise

__all__ = ["clean_sentences", "names_class"]

_WORDS = (3, 40)
"""Smallest and largest number of words of a description."""
_LIST_MARKER = re.compile(
    r"^(?:[-*+>#\u2022\u2013\u2014]+|\(?\d{1,3}[.):](?!\d)|\(?[a-z][.)](?=\s))\s*", re.IGNORECASE
)
_MARKUP = re.compile(r"\*\*|__|`")


def clean_sentences(text: str, class_name: str) -> list[str]:
    """Sentences of a text that can serve as descriptions, in order.

    List markers, numbers, markup and surrounding quotes are removed. Skipped are lines of fewer than 3 or more than 40
    words, headings (lines that end with a colon), lines that name the class (:func:`names_class`), and duplicates up to
    case and punctuation.

    Args:
        text: Answer of a language model.
        class_name: Name of the class that it describes.
    """
    kept: dict[str, str] = {}
    for line in text.splitlines():
        sentence = _strip(line)
        if sentence.endswith(":") or not _WORDS[0] <= len(_words(sentence)) <= _WORDS[1]:
            continue
        if not names_class(sentence, class_name):
            kept.setdefault(" ".join(_words(sentence)), sentence)
    return list(kept.values())


def names_class(sentence: str, class_name: str) -> bool:
    """Whether a sentence contains the name of a class.

    It does if it has two neighbouring words of the name ("red winged" or "winged blackbird"), or the last word of the
    name, also in the plural, unless that is a number; case, hyphens and underscores are ignored.
    """
    name, words = _words(class_name), _words(sentence)
    if not set(pairwise(name)).isdisjoint(pairwise(words)):
        return True
    if not name or (name[-1].isdecimal() and len(name) > 1):
        return False
    return not {name[-1], f"{name[-1]}s", f"{name[-1]}es"}.isdisjoint(words)


def _strip(line: str) -> str:
    """Remove markup, list markers and surrounding quotes of a line."""
    sentence, previous = " ".join(_MARKUP.sub("", line).split()), ""
    while sentence != previous:  # several markers, as in "- 1. ..."
        previous, sentence = sentence, _LIST_MARKER.sub("", sentence)
    return sentence.strip("\"' \u201c\u201d\u2018\u2019")


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
