"""Distillation targets: teacher embeddings of a batch, from the bank or online, and the control experiments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ppssl.functional import teacher_probabilities
from ppssl.losses.ais.whitening import CorpusWhitening
from ppssl.losses.loss_plugin import TrainingStep
from ppssl.text.bank import TextBank
from ppssl.text.image_bank import ImageBank
from ppssl.text.teachers.base import Teacher, of_channels
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.randomness import generator, torch_seed

__all__ = ["Control", "Targets", "make_targets"]

_SAMPLE = 4096
"""Largest number of images that the temperature is calibrated on."""

_SAMPLE_ELEMENTS = 2**26
"""Largest number of their similarities to the descriptions: half a gigabyte in float64."""

_BOUNDS = 1e-5, 1e3
"""Temperatures that the calibration tries."""

Control = Literal["none", "random_texts", "rotated_texts", "shuffled_images"]


@dataclass
class Targets:
    """Distillation targets of AIS; no module, so neither checkpoints nor DDP contain it.

    Attributes:
        titles: First phrasing of each description.
        texts: T, ``(M, e)`` float32, whitened if there is a whitening.
        hubs: ``(M,)`` mean similarities, which are subtracted; or ``None``.
        temperature: tau_T.
        top_k: Number of descriptions that keep their probability, or ``None``.
        images: v of the training images.
        online: The teacher, if it is run on the views.
        whitening: Whitening of the teacher's space, or ``None``.
    """

    titles: list[str]
    texts: Tensor
    hubs: Tensor | None
    temperature: float
    top_k: int | None
    images: ImageBank
    online: Teacher | None = None
    whitening: CorpusWhitening | None = None

    def embeddings(
        self, step: TrainingStep, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Tensor:
        """Teacher embeddings v of a batch, ``(B, k, e)`` float32 on the device of the student; no gradient.

        Args:
            step: The step.
            mean: Mean of each channel that the views are normalised with.
            std: Standard deviation of each channel, likewise.
        """
        if self.online is not None:
            scale, shift = (of_channels(values, step.image) for values in (std, mean))
            return self.online.embed_views(step.image.detach() * scale + shift)[:, None].clone()
        return self.images.lookup(step.batch["index"]).to(step.embedding.device)

    def probabilities(self, v: Tensor) -> Tensor:
        """Teacher distribution P, ``(B, M)`` float32, on the device of v."""
        if self.texts.device != v.device:
            self.texts = self.texts.to(v.device)
            self.hubs = None if self.hubs is None else self.hubs.to(v.device)
            self.whitening = None if self.whitening is None else self.whitening.to(v.device)
        v = v if self.whitening is None else self.whitening.images(v)
        return teacher_probabilities(
            v, self.texts, temperature=self.temperature, hubs=self.hubs, top_k=self.top_k
        )


def make_targets(
    bank: TextBank,
    *,
    teacher_temperature: float | Literal["auto", "teacher"] = "auto",
    perplexity: float = 0.1,
    centre_hubs: bool = True,
    top_k: int | None = None,
    control: Control = "none",
    online: bool = False,
    whiten: float | None = None,
) -> Targets:
    """Create the targets from a bank; the arguments are those of :class:`~ppssl.losses.ais.plugin.AIS`.

    Raises:
        UserError: ``top_k`` is larger than the corpus, or leaves fewer descriptions than ``perplexity`` asks for.
    """
    if bank.images is None or bank.mean is None:
        raise ValueError("A bank of texts only has no targets: open it with the data module.")
    texts, images = bank.texts, bank.images
    if top_k is not None and top_k > len(texts):
        raise UserError(
            f"`top_k` is {top_k}, and the corpus has {len(texts)} descriptions: at most all of them."
        )
    if control == "random_texts":
        texts = _orthogonal(*texts.shape)
    if control == "rotated_texts":
        texts = texts @ _orthogonal(texts.shape[1], texts.shape[1])
    if control == "shuffled_images":
        order = generator(0, "shuffled images").permutation(len(images))
        images = images[torch.from_numpy(order)]
    mean, whitening = bank.mean, None
    if whiten is not None:
        whitening = CorpusWhitening.fit(texts, mean, whiten)
        texts, mean = whitening.texts(texts), _mean(images, whitening)
    hubs = mean @ texts.T if centre_hubs else None
    tau = bank.temperature if teacher_temperature == "teacher" else teacher_temperature
    if tau == "auto":
        views = 1 if online else images.shape[1]  # the teacher sees one view of a step
        largest = _SAMPLE_ELEMENTS // (views * len(texts))
        sample = bank.sample(min(_SAMPLE, max(largest, 64)))[:, :views]
        sample = sample if whitening is None else whitening.images(sample)
        sample = sample.double()
        p = teacher_probabilities(
            sample.flatten(0, 1), texts, temperature=1.0, hubs=hubs, top_k=top_k
        )
        tau = _calibrate(p.log().view(-1, views, len(texts)), perplexity, top_k)
    rows = ImageBank(images, bank.mean, bank.first_index)
    return Targets(bank.corpus.titles, texts, hubs, float(tau), top_k, rows, whitening=whitening)


def _mean(images: Tensor, whitening: CorpusWhitening) -> Tensor:
    """Mean of the whitened embeddings of all images that could be read, ``(e,)`` float32."""
    total, count = torch.zeros(images.shape[-1], dtype=torch.float64), 0
    for part in images.split(4096):
        v = whitening.images(part)
        total += v.double().sum(dim=(0, 1))
        count += int(part.any(dim=-1).sum())
    return (total / max(count, 1)).float()


def _orthogonal(count: int, dim: int) -> Tensor:
    """Random directions ``(count, dim)``, L2-normalised; each block of ``dim`` is orthogonal."""
    draw = torch.Generator().manual_seed(torch_seed(0, "random texts"))
    blocks = [
        torch.linalg.qr(torch.randn(dim, dim, generator=draw))[0] for _ in range(-(-count // dim))
    ]
    return F.normalize(torch.cat(blocks)[:count], dim=1)


def _calibrate(logits: Tensor, perplexity: float, top_k: int | None) -> float:
    """tau_T of a mean perplexity of P, a fraction of the corpus size; at least 1.1 times the smallest possible one."""
    size = logits.shape[-1]
    smallest, largest = (_mean_perplexity(logits.double(), tau) for tau in _BOUNDS)
    if largest < 1.1 * smallest:
        return 1.0  # P hardly depends on it: `top_k` of 1, or ties
    if top_k is not None and perplexity * size >= largest:
        raise UserError(
            f"`top_k` of {top_k} leaves a perplexity of at most {largest:.3g}, and `perplexity` of {perplexity:g} asks "
            f"for {perplexity * size:.3g} of {size} descriptions: set it below {largest / size:.2g}, or set "
            "`teacher_temperature`."
        )
    return perplexity_temperature(logits, min(max(perplexity * size, 1.1 * smallest), largest))


def perplexity_temperature(logits: Tensor, perplexity: float) -> float:
    """Temperature of a given mean perplexity of P, by bisection (:ref:`D5 <d5>`).

    Args:
        logits: ``(N, M)`` or, of k views over which P is averaged, ``(N, k, M)``; -inf for what P leaves out.
        perplexity: exp of the entropy in nats, averaged over the images; strictly between 1 and M.

    Returns:
        tau in [1e-5, 1e3]; a bound of this range if no temperature in it reaches the perplexity (rows with ties).
    """
    if logits.ndim not in (2, 3) or not 1 < perplexity < logits.shape[-1]:
        raise ArgumentError(
            f"`perplexity` must lie between 1 and the columns of {tuple(logits.shape)}, got {perplexity}."
        )
    values = logits.double()
    low, high = (math.log(tau) for tau in _BOUNDS)
    for _ in range(60):
        middle = (low + high) / 2
        reached = _mean_perplexity(values, math.exp(middle))
        low, high = (middle, high) if reached < perplexity else (low, middle)
    return math.exp((low + high) / 2)


def _mean_perplexity(logits: Tensor, tau: float) -> float:
    """Mean perplexity of P over the images."""
    p = (logits / tau).softmax(dim=-1)
    p = p if p.ndim == 2 else p.mean(dim=1)
    return float(torch.special.entr(p).sum(dim=-1).exp().mean())
