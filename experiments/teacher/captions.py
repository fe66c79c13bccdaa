"""Sentences about procedural birds: random subsets of what is known of a picture, in random order and words.

That is the six attributes, and on request values of the scene too. A sentence carries the values that it states, so
that of any picture it is known whether the sentence is true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppssl.data.synthetic.birds import ATTRIBUTES, NUISANCES, BirdClass
from ppssl.text.teachers.towers import WordTokenizer

__all__ = ["Captions", "Sentence", "bird_of"]

NAMES, VALUES = tuple(ATTRIBUTES), tuple(ATTRIBUTES.values())
LINKS = (" and ",)
# Shares: of clauses, of the data set's own words, of "a red hooked beak".
CLAUSE, CANONICAL, JOINT = 0.3, 0.15, 0.7


@dataclass(frozen=True)
class Sentence:
    """A sentence, and what it states: a code of each of :attr:`Captions.names`, or -1 where it says nothing."""

    text: str
    codes: tuple[int, ...]


def bird_of(codes: Sequence[int]) -> BirdClass:
    """The bird with these attribute codes."""
    return BirdClass(*(values[code] for values, code in zip(VALUES, codes, strict=True)))


class Captions:
    """Makes sentences from a file of phrases.

    Args:
        path: The YAML file.
        subset: Weight of each number of statements in a sentence, six numbers.
        scene: Another such file, of phrases for nuisance values, which are then stated as often as the attributes.

    Attributes:
        names: What is stated: the attributes, then the nuisance values of ``scene``.
        sizes: How many values each of them has.
    """

    def __init__(self, path: Path, subset: Sequence[float], scene: Path | None = None) -> None:
        content = yaml.safe_load(path.read_text())
        self._phrases: dict[str, Any] = content.pop("values")
        self._lists: dict[str, list[str]] = content
        about = {} if scene is None else yaml.safe_load(scene.read_text())["values"]
        self._phrases |= about
        self._values = (*VALUES, *(tuple(phrases) for phrases in about.values()))
        self.names = (*NAMES, *about)
        self.sizes = [len(values) for values in self._values]
        self._sizes = np.array(subset) / sum(subset)

    def sentence(self, codes: Sequence[int], rng: np.random.Generator) -> Sentence:
        """A random true sentence about a picture with these codes."""
        order = rng.permutation(len(self.names))
        chosen = order[: 1 + rng.choice(len(self._sizes), p=self._sizes)].tolist()
        kind = rng.random()
        if kind < CANONICAL and max(chosen) < len(NAMES):
            text = self._canonical(bird_of(codes[: len(NAMES)]), chosen)
        elif kind < CANONICAL + CLAUSE:
            text = self._join([self._clause(k, codes[k], rng) for k in chosen], rng)
        else:
            listed = self._join(self._nouns(chosen, codes, rng), rng)
            text = str(rng.choice(self._lists["frames"])).format(listed)
        return Sentence(text, tuple(c if k in chosen else -1 for k, c in enumerate(codes)))

    def scene_codes(self, nuisances: np.ndarray) -> np.ndarray:
        """The codes of nuisance values: ``(N, K)`` in the order of ``NUISANCES`` to ``(N, s)`` int64.

        A hue in turns becomes its number among the evenly spaced ones; other values are numbers already.
        """
        codes = np.empty((len(nuisances), len(self.names) - len(NAMES)), dtype=np.int64)
        for k, name in enumerate(self.names[len(NAMES) :]):
            steps = self.sizes[len(NAMES) + k] if name.endswith("_hue") else 1
            codes[:, k] = np.rint(nuisances[:, NUISANCES.index(name)] * steps)
        return codes

    def prompts(self, stated: int, code: int) -> list[str]:
        """Three plain sentences about one value, for zero-shot recognition."""
        if stated < len(NAMES):
            codes = [code if k == stated else 0 for k in range(len(NAMES))]
            phrase = self._canonical(bird_of(codes), [stated])
        else:
            phrase = f"a bird with {self._of(stated, code)['nouns'][0]}"
        return [
            phrase,
            f"this bird has {phrase.removeprefix('a bird with ')}",
            f"a photo of {phrase}",
        ]

    def vocabulary(self) -> list[str]:
        """Every word that a sentence can hold, sorted."""
        own = [value for values in self._lists.values() for value in values] + list(LINKS)
        own += [
            phrase
            for values in self._phrases.values()
            for kinds in values.values()
            for phrases in kinds.values()
            for phrase in phrases
        ]
        own += [bird_of([min(k, len(v) - 1) for v in VALUES]).caption() for k in range(4)]
        words = {word for text in own for word in WordTokenizer(()).words(text)}
        return sorted(word for word in words if not word.isdigit())

    def _canonical(self, bird: BirdClass, chosen: list[int]) -> str:
        """The part of the bird's own caption that states the chosen attributes."""
        beak, wing, crest, tail_and_ring = bird.caption().split(", ")
        tail, ring = tail_and_ring.split(" and ")
        parts = {2: wing, 3: crest, 4: tail, 5: ring}
        shape = beak.removeprefix(f"a bird with a {bird.beak_colour} ")
        colour = f"{bird.beak_colour} {shape if 0 in chosen else 'beak'}"
        first = [f"a {colour if 1 in chosen else shape}"] if {0, 1} & set(chosen) else []
        listed = first + [parts[k] for k in sorted(chosen) if k in parts]
        return "a bird with " + (
            f"{', '.join(listed[:-1])} and {listed[-1]}" if len(listed) > 1 else listed[0]
        )

    def _nouns(
        self, chosen: list[int], codes: Sequence[int], rng: np.random.Generator
    ) -> list[str]:
        """One phrase for each statement, both of a beak often in one."""
        joint = {0, 1} <= set(chosen) and rng.random() < JOINT
        phrases = [self._noun(k, codes[k], rng) for k in chosen if not (joint and k == 1)]
        if joint:
            adjectives = [rng.choice(self._of(k, codes[k])["adjectives"]) for k in (0, 1)]
            if rng.random() < 0.8:
                adjectives.reverse()
            place = [k for k in chosen if k != 1].index(0)
            phrases[place] = self._beak(" ".join(adjectives), rng)
        return phrases

    def _noun(self, stated: int, code: int, rng: np.random.Generator) -> str:
        phrases = self._of(stated, code)
        if "adjectives" in phrases and rng.random() < 0.7:
            return self._beak(str(rng.choice(phrases["adjectives"])), rng)
        return str(rng.choice(phrases["nouns"]))

    def _beak(self, adjectives: str, rng: np.random.Generator) -> str:
        frame = rng.choice(self._lists["beak_frames"])
        return str(frame).format(adjectives, rng.choice(self._lists["beaks"]))

    def _clause(self, stated: int, code: int, rng: np.random.Generator) -> str:
        phrases = self._of(stated, code)
        if "adjectives" in phrases and rng.random() < 0.7:
            adjective, beak = rng.choice(phrases["adjectives"]), rng.choice(self._lists["beaks"])
            return str(rng.choice(self._lists["beak_clauses"])).format(adjective, beak)
        return str(rng.choice(phrases["clauses"]))

    def _of(self, stated: int, code: int) -> dict[str, list[str]]:
        return self._phrases[self.names[stated]][self._values[stated][code]]

    @staticmethod
    def _join(phrases: list[str], rng: np.random.Generator) -> str:
        text = phrases[0]
        for k, phrase in enumerate(phrases[1:]):
            last = k == len(phrases) - 2
            text += (" and " if last or rng.random() < 0.1 else ", ") + phrase
        return text
