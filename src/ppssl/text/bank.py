"""Text bank: the teacher's embeddings of all descriptions and all training images, computed once (:ref:`D7 <d7>`).

Texts and images have a file each, so that a change of corpus does not require another pass over the images. A file is
identified by the teacher's name and the corpus's hash or the data's fingerprint; if both exist, neither the teacher nor
transformers nor a network is needed.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ppssl.text.bank_file import RowWriter, obtain
from ppssl.text.corpus import TextCorpus
from ppssl.text.image_bank import files_of_teacher, open_images
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.load import check_texts
from ppssl.utils.paths import AnyPath
from ppssl.utils.results import provenance

if TYPE_CHECKING:
    from ppssl.data.datamodule import FineGrainedDataModule

__all__ = [
    "TextBank",
    "embed_corpus",
    "open_bank",
    "ranked",
]


@dataclass(frozen=True)
class TextBank:
    """Teacher embeddings of a corpus and the training images, for training without the teacher.

    Attributes:
        corpus: The descriptions.
        texts: Text embeddings T, ``(M, e)`` float32, L2-normalised.
        images: Image embeddings v, ``(N, k, e)`` float16 on the CPU, memory-mapped by default, by number within the
            training images; rows of unreadable images are 0. ``None`` in a bank of texts only.
        mean: Mean of v, ``(e,)`` float32; the hubness is ``mean @ texts.T`` (:ref:`D6 <d6>`). ``None`` in a bank of
            texts only.
        first_index: Index of the first row in the full data set.
        temperature: Temperature of the teacher's softmax.
    """

    corpus: TextCorpus
    texts: Tensor
    images: Tensor | None
    mean: Tensor | None
    first_index: int
    temperature: float

    def sample(self, n: int = 4096) -> Tensor:
        """Image embeddings of at most ``n`` evenly spaced, readable images: ``(n, k, e)`` float32.

        Raises:
            ValueError: The bank has texts only.
        """
        if self.images is None:
            raise ValueError("A bank of texts only has no images: open it with the data module.")
        rows = torch.linspace(0, len(self.images) - 1, min(n, len(self.images))).round().long()
        sample = self.images[rows].float()
        return sample[sample.flatten(1).any(dim=1)]


def open_bank(
    teacher: AnyPath | Teacher,
    corpus: TextCorpus,
    data: FineGrainedDataModule | None,
    *,
    views: int = 1,
    folder: AnyPath | None = None,
    memory_map: bool = True,
    device: torch.device | str = "cpu",
) -> TextBank:
    """Open the bank of a teacher, a corpus and a data set; missing files are computed with a progress bar.

    Several processes may call it at once: one computes the missing files, the others wait.

    Args:
        teacher: A teacher or its name, see :func:`~ppssl.text.teachers.load.load_teacher`.
        corpus: The descriptions.
        data: The data module, after its ``setup``; ``None``: texts only.
        views: Number k of fixed crops per image (:ref:`D7 <d7>`); the first is the whole image.
        folder: Folder of the banks, see :func:`bank_folder`.
        memory_map: Whether the image embeddings stay on disk; otherwise they are read into memory.
        device: Device of the teacher, if it is needed.

    Raises:
        UserError: The teacher embeds images only, the bank does not match it or the data, the disk is too small, or an
            image is unreadable.
    """
    check_texts(teacher)
    home, manifest, get_teacher = files_of_teacher(teacher, folder, device)
    images = mean = None
    first = 0
    # Images before texts: data loader workers must not be forked after a tokenizer has started threads.
    if data is not None:
        images, mean = open_images(home, manifest, get_teacher, data, views)
        images = images if memory_map else images.clone()
        first = data.offset("train")
    texts, temperature = _open_texts(home, manifest, corpus, get_teacher)
    if isinstance(teacher, Teacher):
        teacher.to("cpu")  # its memory is the training's now
    return TextBank(corpus, texts, images, mean, first, temperature)


def _open_texts(
    home: Path, manifest: dict[str, Any], corpus: TextCorpus, get_teacher: Callable[[], Teacher]
) -> tuple[Tensor, float]:
    """Text embeddings of a corpus and the teacher's temperature."""
    expected = ChainMap({"corpus_hash": corpus.fingerprint()}, manifest)
    path = home / f"texts-{expected['corpus_hash']}.npy"

    def make() -> None:
        teacher = get_teacher()
        rows = embed_corpus(teacher, corpus)
        versions = provenance()["versions"]
        written = dict(expected) | {"temperature": teacher.temperature, "made_with": versions}
        writer = RowWriter(path, tuple(rows.shape), "float32", written)
        writer.write(rows[writer.done :])
        writer.commit()

    rows, _, read = obtain(path, expected | {"temperature": None}, make)
    return rows.clone(), read["temperature"]


def embed_corpus(teacher: Teacher, corpus: TextCorpus) -> Tensor:
    """Text embeddings T of a corpus, ``(M, e)`` float32: the normalised mean of each description's phrasings.

    A phrasing that exceeds the text encoder's limit is split into sentences, and a sentence that exceeds it into runs
    of words; the parts are averaged, and one warning has the number of such phrasings.
    """
    parts: list[str] = []
    description_of: list[int] = []
    num_split = 0
    for number, phrasings in enumerate(corpus):
        for text in phrasings:
            pieces = [text] if teacher.fits(text) else _split(text, teacher.fits)
            num_split += len(pieces) > 1
            parts += pieces
            description_of += [number] * len(pieces)
    if num_split:
        rank_zero_warn(
            f"{num_split} texts exceed the text encoder's limit: they were split into sentences, whose embeddings are "
            "averaged."
        )
    embedded = teacher.embed_texts(parts)
    index = torch.tensor(description_of)
    total = torch.zeros(len(corpus), embedded.shape[1]).index_add(0, index, embedded)
    return torch.nn.functional.normalize(total, dim=1)


def _split(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Split a text into sentences, and sentences that exceed the limit into runs of words."""
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


def ranked(probabilities: Tensor, titles: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
    """The ``k`` most probable titles of each row of ``(B, M)``, with their probabilities."""
    best = probabilities.topk(min(k, len(titles)), dim=1)
    return [
        [(titles[j], p) for j, p in zip(numbers, values, strict=True)]
        for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
