"""The contrastive bases that the contract tests run over, small, with an encoder and batches for them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppssl import BYOL, ContrastiveObjective, MoCo, MoCoV3, SimCLR
from ppssl.encoder import Encoder

BASES: dict[str, Callable[..., ContrastiveObjective]] = {
    "MoCo": lambda **options: MoCo(dim=8, queue_size=16, **options),
    "SimCLR": lambda **options: SimCLR(dim=8, **options),
    "BYOL": lambda **options: BYOL(dim=8, hidden_dim=16, **options),
    "MoCoV3": lambda **options: MoCoV3(dim=8, hidden_dim=16, **options),
}
SYMMETRIC = ("SimCLR", "BYOL", "MoCoV3")
"""Those in which both views are queries; their heads have a norm."""

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "image_size": 32,
    "backbone_kwargs": {"depth": 1, "embed_dim": 24, "num_heads": 2},
}
"""No layer of it looks at the batch."""


def make(
    name: str, *, per_image: bool = False, **options: Any
) -> tuple[Encoder, ContrastiveObjective]:
    """An encoder and a base in training mode; ``per_image``: no norm takes statistics of a batch."""
    torch.manual_seed(0)
    policy = "frozen" if per_image else "batch"
    encoder = Encoder("resnet_small", kwargs={"width": 4}, batch_norm=policy)
    if per_image and name in SYMMETRIC:
        options["head_norm"] = "layer"
    if name == "MoCo":
        options["prefill"] = "random"
    base = BASES[name](**options)
    base.build(encoder, num_images=40)
    return encoder, base.train()


def batch_of(
    index: list[int], seed: int = 0, size: int = 16, further: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Two views of noise of images with these numbers, and further ones of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    views = [
        torch.randn(len(index), 3, pixels, pixels, generator=generator)
        for pixels in (size, size, *further)
    ]
    return {"views": views, "index": torch.tensor(index)}


def assert_same_gradients(loss: Tensor, expected: Tensor, trained: Sequence[nn.Parameter]) -> None:
    """Losses of images ``(B,)``, each with a weight of its own, have the same gradients."""
    weight = torch.arange(1.0, len(loss) + 1)
    ours = torch.autograd.grad((weight * loss).sum(), trained)
    theirs = torch.autograd.grad((weight * expected).sum(), trained)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)
