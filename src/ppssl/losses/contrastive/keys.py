"""Keys of all processes, and InfoNCE against them with its accuracy."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ppssl import functional
from ppssl.utils.distributed import gather_equal
from ppssl.utils.errors import UserError

__all__ = ["check_negatives", "gather_keys", "info_nce_with_accuracy"]


@torch.no_grad()
def gather_keys(keys: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Keys ``(W * B, d)`` and indices ``(W * B,)`` int64 of all W processes, in rank order; one collective.

    Args:
        keys: ``(B, d)`` float32 or float64, the same B on all processes.
        index: ``(B,)``, integers of any type.
    """
    numbers = index.long()[:, None].view(keys.dtype)  # the same bits
    packed, width = gather_equal(torch.cat([keys, numbers], dim=1)), numbers.shape[1]
    return packed[:, :-width], packed[:, -width:].contiguous().view(torch.int64).squeeze(1)


def info_nce_with_accuracy(
    query: Tensor, key: Tensor, negatives: Tensor, *, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """InfoNCE ``(B,)`` float32, and the fraction of queries whose key is nearer than all negatives, a scalar.

    The arguments are those of :func:`ppssl.functional.info_nce`.
    """
    logits = functional.info_nce_logits(query, key, negatives, temperature=temperature, mask=mask)
    target = logits.new_zeros(len(logits), dtype=torch.long)
    accuracy = (logits.detach().argmax(dim=1) == 0).float().mean()
    return F.cross_entropy(logits, target, reduction="none"), accuracy


def check_negatives(objective: str, images: int) -> None:
    """Refuse a batch of one image, which has no negatives.

    Args:
        objective: Name of the objective, for the message.
        images: Number of images in the batch of all processes.

    Raises:
        UserError: There is one image.
    """
    if images < 2:
        raise UserError(
            f"{objective} contrasts the images of a batch with each other, and this batch has one: set "
            "`data.batch_size` to at least 2, better 64 or more, or choose MoCo or BYOL. A loader of your own "
            "leaves out a last batch of one image with `drop_last=True`."
        )
