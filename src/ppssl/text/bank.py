"""The text bank: embeddings of all descriptions and of all training images, by the teacher, once (METHOD, "AIS"; D7).

Kept in two files, one for the texts and one for the images, so that another corpus does not cost another pass over
the images. They are found by the teacher's name, the corpus's hash and the data's fingerprint; where both are there,
neither the teacher nor transformers nor a network is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from rich.progress import Progress
from torch import Tensor

from ppssl.text.bank_file import RowWriter, obtain
from ppssl.text.corpus import TextCorpus
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.load import load_teacher, teacher_fingerprint
from ppssl.utils.randomness import generator
from ppssl.utils.results import provenance

if TYPE_CHECKING:
    from ppssl.data.datamodule import FineGrainedDataModule

__all__ = ["TextBank", "bank_folder", "embed_corpus", "open_bank", "ranked"]

_SAVE_SECONDS = 10.0


@dataclass(frozen=True)
class TextBank:
    """What the teacher says, for training without it.

    Attributes:
        corpus: The descriptions.
        texts: T, ``(M, e)`` float32, L2-normalised.
        images: v, ``(N, k, e)`` float16 on the CPU, memory-mapped unless asked otherwise, by number within the training
            images; rows of images that could not be read are 0. ``None`` in a bank of texts alone.
        mean: ``(e,)`` float32, the mean of v; the hubs are ``mean @ texts.T`` (D6). ``None`` likewise.
        first_index: The index, in the full data set, of the first row.
        temperature: The teacher's own.
    """

    corpus: TextCorpus
    texts: Tensor
    images: Tensor | None
    mean: Tensor | None
    first_index: int
    temperature: float

    def sample(self, n: int = 4096) -> Tensor:
        """V of at most n images, evenly spaced, of each its first view: ``(n, e)`` float32.

        Raises:
            ValueError: It is a bank of texts alone.
        """
        if self.images is None:
            raise ValueError("A bank of texts alone has no images: open it with the data.")
        rows = torch.linspace(0, len(self.images) - 1, min(n, len(self.images))).round().long()
        sample = self.images[rows, 0].float()
        return sample[sample.any(dim=1)]


def bank_folder(folder: str | None = None) -> Path:
    """Where banks are kept: ``folder``, else ``$PPSSL_CACHE/banks``, else ``~/.cache/ppssl/banks``."""
    if folder is not None:
        return Path(folder).expanduser()
    home = os.environ.get("PPSSL_CACHE") or Path.home() / ".cache" / "ppssl"
    return Path(home) / "banks"


def open_bank(
    teacher: str,
    corpus: TextCorpus,
    data: FineGrainedDataModule | None,
    *,
    views: int = 1,
    folder: str | None = None,
    memory_map: bool = True,
    device: torch.device | str = "cpu",
) -> TextBank:
    """The bank of a teacher, a corpus and a data set: found, or made with a progress bar.

    Safe to call by many processes at once: one makes what is missing, the others wait for it.

    Args:
        teacher: Its name (:func:`~ppssl.text.teachers.load.load_teacher`).
        corpus: The descriptions.
        data: The data module, after its ``setup``; ``None``: texts only.
        views: k, how many fixed crops of each image (D7); the first is the whole image.
        folder: Where banks are kept; see :func:`bank_folder`.
        memory_map: Leave the images on disk, or read them into memory.
        device: Where the teacher runs, if it has to.

    Raises:
        UserError: The bank does not fit the teacher, the data or the disk, or an image cannot be read.
    """
    get_teacher = cache(lambda: load_teacher(teacher).to(device))
    home = bank_folder(folder) / _slug(teacher)
    wanted = {"teacher": teacher, "teacher_hash": teacher_fingerprint(teacher)}
    images = mean = None
    # Images before texts: loader workers are not to be forked after a tokenizer's threads.
    if data is not None:
        images, mean = _images(home, wanted, data, views, get_teacher)
        images = images if memory_map else images.clone()
    texts, temperature = _texts(home, wanted, corpus, get_teacher)
    first = 0 if data is None else data.offset("train")
    return TextBank(corpus, texts, images, mean, first, temperature)


def _texts(
    home: Path, wanted: dict[str, Any], corpus: TextCorpus, get_teacher: Callable[[], Teacher]
) -> tuple[Tensor, float]:
    own = wanted | {"corpus_hash": corpus.fingerprint()}
    path = home / f"texts-{own['corpus_hash']}.npy"

    def make() -> None:
        found = get_teacher()
        rows = embed_corpus(found, corpus)
        facts = own | {"temperature": found.temperature, "made_with": provenance()["versions"]}
        writer = RowWriter(path, tuple(rows.shape), "float32", facts)
        writer.write(rows[writer.done :])
        writer.commit()

    rows, _, manifest = obtain(path, own, make)
    return rows.clone(), manifest["temperature"]


def embed_corpus(teacher: Teacher, corpus: TextCorpus) -> Tensor:
    """T: each description's phrasings averaged, L2-normalised, ``(M, e)`` float32.

    A phrasing over the text encoder's limit is split into sentences, a sentence over it into words as many as fit, and
    the parts are averaged; one warning says how many there were.
    """
    parts: list[str] = []
    owner: list[int] = []
    split = 0
    for number, phrasings in enumerate(corpus):
        for text in phrasings:
            pieces = [text] if teacher.fits(text) else _split(text, teacher.fits)
            split += len(pieces) > 1
            parts += pieces
            owner += [number] * len(pieces)
    if split:
        rank_zero_warn(
            f"{split} texts are longer than the text encoder reads: they were split into sentences and averaged."
        )
    embedded = teacher.embed_texts(parts)
    total = torch.zeros(len(corpus), embedded.shape[1]).index_add(0, torch.tensor(owner), embedded)
    return torch.nn.functional.normalize(total, dim=1)


def _split(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Sentences that fit; a longer one in runs of words."""
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?;])\s+", text):
        words = sentence.split()
        while words:
            n = len(words)
            while n > 1 and not fits(" ".join(words[:n])):
                n -= max(1, n // 8)
            pieces.append(" ".join(words[:n]))
            words = words[n:]
    return pieces


def _images(
    home: Path,
    wanted: dict[str, Any],
    data: FineGrainedDataModule,
    views: int,
    get_teacher: Callable[[], Teacher],
) -> tuple[Tensor, Tensor]:
    fingerprint = data.sources["train"].fingerprint()
    own = wanted | {"data_fingerprint": fingerprint, "views": views, "images": data.num_train}
    suffix = "" if views == 1 else f"-{views}-views"
    path = home / f"images-{fingerprint}{suffix}.npy"

    def make() -> None:
        found = get_teacher()
        facts = own | {"made_with": provenance()["versions"]}
        writer = RowWriter(path, (data.num_train, views, found.dim), "float16", facts)
        _embed_images(found, data, views, writer)
        writer.commit()

    rows, mean, _ = obtain(path, own, make)
    return rows, mean


def _embed_images(
    teacher: Teacher, data: FineGrainedDataModule, views: int, writer: RowWriter
) -> None:
    items = np.arange(writer.done, data.num_train)
    loader = data.eval_loader("train", items, FixedCrops(teacher.transform, views))
    first, saved = data.offset("train"), monotonic()
    with Progress(transient=True) as progress:
        task = progress.add_task(
            f"{teacher.name} looks at the images", total=data.num_train, completed=writer.done
        )
        try:
            for cpu_batch in loader:
                batch = data.on_before_batch_transfer(cpu_batch, 0)
                pixels: Tensor = batch["image"]  # (B, k, 3, H, W)
                v = teacher.embed_images(pixels.flatten(0, 1)).unflatten(0, (-1, views)).cpu()
                numbers = torch.arange(writer.done, writer.done + len(v))
                v[batch["index"] != numbers + first] = 0  # another image in a broken one's place
                writer.write(v)
                progress.update(task, completed=writer.done)
                if monotonic() - saved > _SAVE_SECONDS:
                    writer.save()
                    saved = monotonic()
        finally:
            if writer.done < data.num_train:
                writer.save()


class FixedCrops:
    """The whole image, and k - 1 crops of half to all of its area, the same places in each image (D7).

    Args:
        transform: The teacher's.
        k: How many views.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor], k: int = 1) -> None:
        self.transform, self.k = transform, k

    def __call__(self, image: Image.Image) -> Tensor:
        """``(k, 3, H, W)``."""
        boxes = [(0.0, 0.0, 1.0, 1.0)] + [self._box(view) for view in range(1, self.k)]
        width, height = image.size
        crops = [
            image.crop((round(x * width), round(y * height), round(r * width), round(b * height)))
            for x, y, r, b in boxes
        ]
        return torch.stack([self.transform(crop) for crop in crops])

    def _box(self, view: int) -> tuple[float, float, float, float]:
        rng = generator(0, "teacher-view", view)
        side = float(np.sqrt(rng.uniform(0.5, 1)))
        x, y = (rng.random(2) * (1 - side)).tolist()
        return x, y, x + side, y + side


def _slug(name: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")[-60:]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def ranked(probabilities: Tensor, titles: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
    """The k likeliest titles of each row of ``(B, M)``, with their probabilities."""
    best = probabilities.topk(min(k, len(titles)), dim=1)
    return [
        [(titles[j], p) for j, p in zip(numbers, values, strict=True)]
        for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
