"""Inspection of a corpus before training: size, near-duplicates, lengths, and descriptions that a teacher picks."""

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
from ppssl.text.teachers.load import check_texts, load_teacher
from ppssl.utils.checks import check_list, check_range
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.paths import AnyPath, expand, writable_figure, writing
from ppssl.utils.plots.descriptions import Ranked, description_panel

__all__ = [
    "CorpusReport",
    "check_output",
    "draw_picks",
    "inspect_corpus",
    "near_duplicates",
    "teacher_picks",
]

_BLOCK = 256
_SHOWN_PIXELS = 512


@dataclass(frozen=True)
class CorpusReport:
    """Results of :func:`inspect_corpus`.

    Attributes:
        descriptions: Number of descriptions.
        phrasings: Number of all phrasings.
        duplicates: Number of removed duplicates.
        near_duplicates: Pairs of descriptions above the threshold, with their similarity, most similar first.
        lengths: ``min``, ``median``, ``p95`` and ``max`` of the phrasings' lengths in ``characters`` and ``words``, and
            with a teacher in ``tokens`` of its tokenizer, including start and end tokens.
        too_long: Number of phrasings that exceed the teacher's text limit; ``None`` without a teacher.
        picks: Name of each image and the descriptions that the teacher picks, with their probabilities.
    """

    descriptions: int
    phrasings: int
    duplicates: int
    near_duplicates: list[tuple[float, str, str]]
    lengths: dict[str, dict[str, float]]
    too_long: int | None = None
    picks: list[tuple[str, Ranked]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return asdict(self)


def inspect_corpus(
    corpus: TextCorpus,
    *,
    teacher: AnyPath | None = None,
    images: Sequence[AnyPath] = (),
    out: AnyPath | None = None,
    num_images: int = 8,
    top: int = 5,
    threshold: float = 0.95,
) -> CorpusReport:
    """Compute statistics of a corpus, and the descriptions that a teacher picks for images.

    Args:
        corpus: The descriptions.
        teacher: Name of the teacher, see :func:`~ppssl.text.teachers.load.load_teacher`; ``None``: no statistics of
            tokens and no picks.
        images: Image files, and folders, of each of which ``num_images`` evenly spaced images are used.
        out: Image file to draw the images and the picks to; its extension is the format.
        num_images: Number of images per folder.
        top: Number of descriptions per image.
        threshold: Similarity of near-duplicates, see :func:`near_duplicates`.

    Raises:
        UserError: The teacher or an image cannot be read, or ``images`` or ``out`` are given without a teacher.
    """
    check_list(images=images)
    check_range(">= 1", num_images=num_images, top=top)
    check_output(out, teacher, images)
    texts = [text for phrasings in corpus for text in phrasings]
    lengths = {"characters": [len(t) for t in texts], "words": [len(t.split()) for t in texts]}
    too_long, picks = None, []
    if teacher is not None:
        check_texts(teacher)
        model = load_teacher(teacher)
        lengths["tokens"] = [len(model.tokenizer.encode(text)) for text in texts]
        too_long = sum(not model.fits(text) for text in texts)
        named_images = list(_named_images(images, num_images))
        rankings = teacher_picks(model, corpus, [image for _, image in named_images], top)
        names = [name for name, _ in named_images]
        picks = list(zip(names, rankings, strict=True))
        if out is not None:
            draw_picks(picks, teacher, out)
    return CorpusReport(
        descriptions=len(corpus),
        phrasings=len(texts),
        duplicates=corpus.duplicates,
        near_duplicates=near_duplicates(corpus.titles, threshold),
        lengths={unit: _spread(values) for unit, values in lengths.items()},
        too_long=too_long,
        picks=picks,
    )


def check_output(out: AnyPath | None, teacher: AnyPath | None, images: Sequence[AnyPath]) -> None:
    """Check that picks are asked for as a whole, and that their figure can be written; the arguments of the inspection.

    Raises:
        UserError: ``images`` or ``out`` are given without a teacher, ``out`` without images, or it cannot be written.
    """
    if (images or out) and teacher is None:
        raise UserError("`images` and `out` need a `teacher`, such as `synthetic-clip`.")
    if out is not None and not images:
        raise UserError("`out` shows the descriptions picked for images: give `images`.")
    if out is not None:
        writable_figure(out)


def draw_picks(picks: Sequence[tuple[str, Ranked]], teacher: AnyPath, out: AnyPath) -> None:
    """Draw images and the descriptions that a teacher picks for them (``CorpusReport.picks``) to a file.

    Raises:
        UserError: An image cannot be read, or the file cannot be written.
    """
    out = writable_figure(out)
    thumbnails = [_thumbnail(_read(Path(name))) for name, _ in picks]
    rankings = [ranking for _, ranking in picks]
    figure = description_panel(
        thumbnails, {str(teacher): rankings}, [Path(name).name for name, _ in picks]
    )
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=120)


def near_duplicates(texts: Sequence[str], threshold: float = 0.95) -> list[tuple[float, str, str]]:
    """Pairs of texts with similar wording, as (similarity, text, text), most similar first.

    The similarity is the cosine of the counts of character 3- to 5-grams within words, in lower case; that of two texts
    does not depend on the rest of the corpus.

    Args:
        texts: Distinct texts.
        threshold: Smallest similarity of a pair, exclusive, in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ArgumentError(f"`threshold` must be in [0, 1), got {threshold}.")
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
    """Most probable descriptions of each image, with their probabilities at the teacher's temperature.

    Hubness is not subtracted (:ref:`D6 <d6>`), because a few images do not estimate it: a description that is picked
    for all images is a hub.
    """
    if not images:
        return []
    texts = embed_corpus(teacher, corpus)
    v = torch.cat([teacher.embed_images(teacher.transform(image)[None]) for image in images])
    p = teacher_probabilities(v.cpu(), texts, temperature=teacher.temperature)
    return list(ranked(p, corpus.titles, top))


def _named_images(paths: Sequence[AnyPath], per_folder: int) -> Iterator[tuple[str, Image.Image]]:
    """Images and their names: the files, and evenly spaced images of the folders."""
    for path in map(expand, paths):
        if not path.is_dir():
            yield str(path), _read(path)
            continue
        source = FolderSource(path)
        numbers = np.linspace(0, len(source) - 1, min(per_folder, len(source))).round().astype(int)
        for i in numbers:
            yield source.name(i), _read(Path(source.name(i)))


def _read(path: Path) -> Image.Image:
    try:
        return read_image(path)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the image {path}: {error}.") from error


def _thumbnail(image: Image.Image) -> Tensor:
    """Downscale an image for drawing, ``(3, H, W)`` uint8."""
    small = image.copy()
    small.thumbnail((_SHOWN_PIXELS, _SHOWN_PIXELS))
    return pil_to_tensor(small)


def _spread(values: Sequence[int]) -> dict[str, float]:
    """Minimum, median, 95th percentile and maximum."""
    low, median, p95, high = np.percentile(values, [0, 50, 95, 100]).tolist()
    return {"min": low, "median": median, "p95": p95, "max": high}
