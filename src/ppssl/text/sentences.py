"""From what a language model writes to descriptions: one sentence a line, without list signs and class names."""

from __future__ import annotations

import re
from itertools import pairwise

__all__ = ["clean_sentences", "names_class"]

_WORDS = (3, 40)
"""Fewest and most words of a description."""
_LIST_SIGN = re.compile(
    r"^(?:[-*+>#\u2022\u2013\u2014]+|\(?\d{1,3}[.):]|\(?[a-z][.)])\s*", re.IGNORECASE
)
_MARKUP = re.compile(r"\*\*|__|`")


def clean_sentences(text: str, class_name: str) -> list[str]:
    """The lines of a text that can serve as descriptions, in order.

    List signs, numbers, markup and quotes around a line are taken off. Left out are lines of fewer than 3 or more than
    40 words, headings (they end with a colon), lines that name the class (:func:`names_class`), and lines that are
    there already but for capitals and full stops.
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
    """Whether a sentence gives a class away.

    It does where it has two neighbouring words of the name ("red winged" or "winged blackbird"), or the name's last
    word unless that is a number, as in the plural; capitals, hyphens and underscores do not matter.
    """
    name, words = _words(class_name), _words(sentence)
    if not set(pairwise(name)).isdisjoint(pairwise(words)):
        return True
    if not name or (name[-1].isdecimal() and len(name) > 1):
        return False
    return not {name[-1], f"{name[-1]}s", f"{name[-1]}es"}.isdisjoint(words)


def _strip(line: str) -> str:
    sentence, before = " ".join(_MARKUP.sub("", line).split()), ""
    while sentence != before:  # "- 1. ..."
        before, sentence = sentence, _LIST_SIGN.sub("", sentence)
    return sentence.strip("\"' \u201c\u201d\u2018\u2019")


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
