"""Anchor as a loss plugin: keeps embeddings near those of the starting encoder (:ref:`R3 <r3>`)."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng

from ppssl.encoder import Encoder
from ppssl.losses.anchor_callback import AnchorCallback
from ppssl.losses.loss_plugin import LossPlugin, LossTerm, TrainingStep, numbered_images
from ppssl.text.image_bank import ImageBank, open_image_bank
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.timm_teacher import TimmTeacher
from ppssl.text.teachers.zoom import ZoomTeacher
from ppssl.utils.checks import check_choice, check_pixels, check_range
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.gem import pool_by_gem

if TYPE_CHECKING:
    from ppssl.encoder import EncoderInfo

__all__ = ["Anchor"]


class Anchor(LossPlugin):
    """Anchor to the starting encoder: ``L = mean (1 - cos(p - m, p_0 - m))``.

    p is the embedding of the query's view and p_0 what a frozen copy of the encoder as it was before training says of
    the whole original image, un-augmented and at the size that the weights know best, both of length 1; m is the mean
    of p_0, without which all cosines would be close to 1. It keeps what pretrained weights know while the contrast adds
    to it, and teaches that an augmented view is still that image; without pretrained weights it makes no sense. p_0 is
    computed once, before the first step, and stored in a bank. With a window, the figure ``<name>/windows`` shows where
    it looks closer.

    Args:
        loss_weight: Weight of the term.
        image_size: Height and width in pixels at which the starting encoder sees the original image; ``"auto"``: the
            size that timm tests its weights at, but at least that of the views; ``None``: it sees the query's view
            itself, without m, which needs no numbered images, but one more forward pass in each step.
        window: It also looks closer at the most salient window of the original, whose side is this fraction of the
            image's, and p_0 is the mean of both (:class:`~ppssl.ZoomTeacher`); ``None``: at the whole image alone.
        pooling: ``"same"``: p_0 is pooled as p is; ``"gem"``: by the generalised mean with exponent 3
            (:class:`~ppssl.utils.gem.GeM`), for encoders of convolutions whose features are not negative. The trained
            encoder keeps its pooling and learns to say the same.
        bank_dir: Folder of the bank; ``None``: ``$PPSSL_CACHE/banks`` or ``~/.cache/ppssl/banks``.
    """

    watcher = AnchorCallback

    def __init__(
        self,
        loss_weight: float = 10.0,
        *,
        image_size: int | Literal["auto"] | None = "auto",
        window: float | None = None,
        pooling: Literal["same", "gem"] = "same",
        bank_dir: str | None = None,
    ) -> None:
        super().__init__()
        check_range(">= 0", loss_weight=loss_weight)
        check_range("in (0, 1]", window=window)
        if image_size != "auto":
            check_pixels(image_size=image_size)
        check_choice(("same", "gem"), pooling=pooling)
        of_original = {"window": (window, None), "pooling": (pooling, "same")}
        for name, (value, plain) in of_original.items():
            if image_size is None and value != plain:
                raise ArgumentError(
                    f"`{name}={value}` is of the original image, and with `image_size=None` the starting encoder sees "
                    f"the view: set `{name}={plain}`, or a size."
                )
        self.loss_weight = loss_weight
        self.image_size = image_size
        self.window = window
        self.pooling = pooling
        self.bank_dir = bank_dir
        self._bank: ImageBank | None = None

    @property
    def uses_bank(self) -> bool:
        """Unless the starting encoder sees the view."""
        return self.image_size is not None

    def build(self, encoder: EncoderInfo) -> None:
        """Copy the encoder; the copy is part of checkpoints, so that a resumed run has the same anchor.

        Raises:
            UserError: The encoder's description has no copy to offer.
        """
        if encoder.frozen_copy is None:
            raise UserError("`Anchor` needs the encoder itself: train it as a plugin of PPSSL.")
        self.start: Any = encoder.frozen_copy()

    def on_fit_start(self, data: Any, device: torch.device) -> None:
        """Find or make the bank of p_0, by the copy of the encoder.

        Raises:
            UserError: The data module does not number its images, or the encoder cannot be pooled by GeM; see also
                :func:`~ppssl.text.image_bank.open_image_bank`.
        """
        if self.image_size is None:
            return
        data = numbered_images(data, self, ", or set `image_size=None`")
        size = self._size(data)
        self.start.check_image_size(size)
        teacher = self.teacher(self.start, size)
        with isolate_rng():
            self._bank = open_image_bank(teacher, data, folder=self.bank_dir, device=device)

    def teacher(self, encoder: Encoder, image_size: int) -> Teacher:
        """A copy of an encoder as a teacher, whose banks are known by its weights.

        Raises:
            UserError: It is to pool by GeM and does not pool by the mean.
        """
        encoder = copy.deepcopy(encoder)
        if self.pooling == "gem":
            pool_by_gem(encoder.model, encoder.name, "pooling: gem")
        whole = _StartingEncoder(encoder, image_size)
        if self.window is None:
            return whole
        closer = ZoomTeacher(whole, encoder.name, window=self.window)
        closer.encoder = encoder
        return closer

    def closer(self, data: Any) -> ZoomTeacher | None:
        """The start as a teacher that looks closer at the images of a data module; ``None``: it looks at them whole."""
        if self.window is None:
            return None
        return cast(ZoomTeacher, self.teacher(self.start, self._size(data)))

    def _size(self, data: Any) -> int:
        """Height and width in pixels at which the copy sees the originals."""
        if self.image_size == "auto":
            return _tested_size(self.start, data.image_size)
        return cast(int, self.image_size)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the copy stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "start"):
            self.start.eval()
        return self

    def weight(self, progress: float) -> float:
        """The same throughout the training."""
        return self.loss_weight

    def forward(self, step: TrainingStep) -> LossTerm:
        """``1 - cos(p, p_0)`` of each image, ``(B,)`` float32, both less the mean of p_0 where that is known."""
        p = F.normalize(step.embedding.float(), dim=1)
        if self.image_size is None:
            with torch.no_grad():
                start = self.start(step.image).float()
        elif self._bank is None:
            raise RuntimeError(
                "Anchor has no bank: call `on_fit_start(data, device)` before training."
            )
        else:
            start = self._bank.lookup(step.batch["index"])[:, 0].to(p.device)
            mean = self._bank.mean.to(p.device)
            p, start = p - mean, start - mean
        cosine = F.cosine_similarity(p, start, dim=1)
        return LossTerm(1 - cosine, {"cosine": cosine.detach().mean()})


def _tested_size(encoder: Encoder, least: int) -> int:
    """Pixels at which timm tests the weights of a model, at least ``least``, which is taken if no other is known."""
    cfg = encoder.model.pretrained_cfg
    size = max(least, *(cfg.get("test_input_size") or cfg.get("input_size", (3, 0, 0)))[1:])
    try:
        encoder.check_image_size(size)
    except UserError:
        return least
    return size


class _StartingEncoder(TimmTeacher):
    """A copy of the starting encoder, known by the SHA-256 of its description, weights and buffers."""

    def __init__(self, encoder: Encoder, image_size: int) -> None:
        super().__init__(encoder.name, image_size=image_size)
        self.encoder = encoder
        digest = hashlib.sha256(repr(encoder.spec).encode())  # weights do not tell how it pools
        for name, value in encoder.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        self._fingerprint = digest.hexdigest()
        self.name = f"start {self._fingerprint[:8]} of {self.name}"

    def fingerprint(self) -> str:
        """Hash of description and weights."""
        return self._fingerprint
