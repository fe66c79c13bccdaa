"""What a corpus is like, before anything is trained with it: size, repetitions, lengths, and what a teacher picks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from ppssl.data.images import read_image
from ppssl.data.sets.folder import FolderSource
from ppssl.functional import teacher_probabilities
from ppssl.text.bank import embed_corpus, ranked
from ppssl.text.corpus import TextCorpus
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.load import load_teacher
from ppssl.utils.errors import UserError
from ppssl.utils.plots.descriptions import Ranked, description_panel

__all__ = ["CorpusReport", "inspect_corpus", "near_duplicates", "teacher_picks"]

_BLOCK = 256
_SHOWN_PIXELS = 512


@dataclass(frozen=True)
class CorpusReport:
    """What :func:`inspect_corpus` found.

    Attributes:
        descriptions: How many there are.
        phrasings: How many texts they have together.
        duplicates: How many were left out because an equal one stands before them.
        near_duplicates: Pairs of descriptions above the threshold, with their similarity, most similar first.
        lengths: Of all phrasings, in ``characters`` and ``words``, and with a teacher in ``tokens`` of its tokenizer,
            its start and end signs included: ``min``, ``median``, ``p95`` and ``max``.
        too_long: How many phrasings the teacher does not read to their end; ``None`` without a teacher.
        picks: For each image its name and the descriptions that fit best, with their probability among all.
    """

    descriptions: int
    phrasings: int
    duplicates: int
    near_duplicates: list[tuple[float, str, str]]
    lengths: dict[str, dict[str, float]]
    too_long: int | None = None
    picks: list[tuple[str, Ranked]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def inspect_corpus(
    corpus: TextCorpus,
    *,
    teacher: str | None = None,
    images: Sequence[str | Path] = (),
    out: str | Path | None = None,
    num_images: int = 8,
    top: int = 5,
    threshold: float = 0.95,
) -> CorpusReport:
    """Look a corpus over.

    Args:
        corpus: The descriptions.
        teacher: Its name (:func:`~ppssl.text.teachers.load.load_teacher`); ``None``: nothing is said of tokens and
        images.
        images: Image files, and folders, of each of which ``num_images`` are taken, evenly spaced.
        out: Draw the images with what the teacher picks for them, to this file (its ending tells the format).
        num_images: See ``images``.
        top: How many descriptions the teacher picks.
        threshold: See :func:`near_duplicates`.

    Raises:
        UserError: The teacher or an image cannot be read, or images or a picture are asked for without a teacher.
    """
    if (images or out) and teacher is None:
        raise UserError("Who picks the descriptions? Give a `teacher`, such as `synthetic-clip`.")
    if out is not None and not images:
        raise UserError(
            "A picture shows images and what the teacher picks for them: give `images`."
        )
    texts = [text for phrasings in corpus for text in phrasings]
    lengths = {"characters": [len(t) for t in texts], "words": [len(t.split()) for t in texts]}
    too_long, picks = None, []
    if teacher is not None:
        found = load_teacher(teacher)
        lengths["tokens"] = [len(found.tokenizer.encode(text)) for text in texts]
        too_long = sum(not found.fits(text) for text in texts)
        named = list(_named_images(images, num_images))
        said = teacher_picks(found, corpus, [image for _, image in named], top)
        picks = [(name, ranking) for (name, _), ranking in zip(named, said, strict=True)]
        if out is not None:
            shown = [_thumbnail(image) for _, image in named]
            names = [Path(name).name for name, _ in named]
            figure = description_panel(shown, {teacher: said}, names)
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(out, dpi=120)
    return CorpusReport(
        descriptions=len(corpus),
        phrasings=len(texts),
        duplicates=corpus.duplicates,
        near_duplicates=near_duplicates(corpus.titles, threshold),
        lengths={unit: _spread(values) for unit, values in lengths.items()},
        too_long=too_long,
        picks=picks,
    )


def near_duplicates(texts: Sequence[str], threshold: float = 0.95) -> list[tuple[float, str, str]]:
    """Pairs of texts that nearly say the same in the same words, most similar first.

    The similarity is the cosine of counts of 3 to 5 neighbouring characters within words, in lower case; of two texts
    it is the same whatever else is in the corpus.

    Args:
        texts: Each once.
        threshold: Pairs above it are told, in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"`threshold` must be in [0, 1), got {threshold}.")
    counts = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)
    rows = normalize(counts.astype(np.float32))
    pairs: list[tuple[float, str, str]] = []
    for start in track(range(0, len(texts), _BLOCK), "Comparing descriptions", transient=True):
        close = (rows[start : start + _BLOCK] @ rows[start:].T).tocoo()
        for i, j, similarity in zip(close.row, close.col, close.data, strict=True):
            if i < j and similarity > threshold:
                pairs.append((min(float(similarity), 1.0), texts[start + i], texts[start + j]))
    return sorted(pairs, key=lambda pair: -pair[0])


def teacher_picks(
    teacher: Teacher, corpus: TextCorpus, images: Sequence[Image.Image], top: int = 5
) -> list[Ranked]:
    """For each image the descriptions that fit best, with their probabilities at the teacher's own temperature.

    Nothing is subtracted for hubs (METHOD D6), which a few images cannot tell: what is picked for all of them is one.
    """
    if not images:
        return []
    texts = embed_corpus(teacher, corpus)
    v = torch.cat([teacher.embed_images(teacher.transform(image)[None]) for image in images])
    p = teacher_probabilities(v.cpu(), texts, temperature=teacher.temperature)
    return list(ranked(p, corpus.titles, top))


def _named_images(
    paths: Sequence[str | Path], per_folder: int
) -> Iterator[tuple[str, Image.Image]]:
    for path in map(Path, paths):
        source = FolderSource(path) if path.is_dir() else None
        if source is None:
            yield str(path), _read(path)
            continue
        numbers = np.linspace(0, len(source) - 1, min(per_folder, len(source))).round().astype(int)
        for i in numbers:
            yield source.name(i), _read(Path(source.name(i)))


def _read(path: Path) -> Image.Image:
    try:
        return read_image(path)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the image {path}: {error}.") from error


def _thumbnail(image: Image.Image) -> Tensor:
    """``(3, H, W)`` uint8, no larger than what is drawn."""
    small = image.copy()
    small.thumbnail((_SHOWN_PIXELS, _SHOWN_PIXELS))
    return pil_to_tensor(small)


def _spread(values: Sequence[int]) -> dict[str, float]:
    low, median, p95, high = np.percentile(values, [0, 50, 95, 100]).tolist()
    return {"min": low, "median": median, "p95": p95, "max": high}
