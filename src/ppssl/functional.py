"""The losses as pure functions of tensors: values per sample, no reduction, no logging, no trainer."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["info_nce", "info_nce_logits"]


def info_nce_logits(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Similarities of each query with its key (column 0) and with the queue, over the temperature.

    Args:
        query: z_q, ``(B, D)``, L2-normalised; receives gradient.
        key: z_k, ``(B, D)``, L2-normalised, the positive of each query.
        queue: Past keys, ``(N, D)``, L2-normalised, no gradient. N may be 0.
        temperature: tau > 0.
        mask: ``(B, N)`` bool, True where an entry is no negative of a query (its own image); ``None``: all are.

    Returns:
        ``(B, 1 + N)`` float32, -inf where masked.
    """
    if query.shape != key.shape or query.ndim != 2 or queue.shape[1:] != query.shape[1:]:
        raise ValueError(
            f"`query` and `key` must be (B, D) and `queue` (N, D), got {tuple(query.shape)}, {tuple(key.shape)} and "
            f"{tuple(queue.shape)}."
        )
    if temperature <= 0:
        raise ValueError(f"`temperature` must be > 0, got {temperature}.")
    positive = torch.einsum("bd,bd->b", query, key).float()  # (B,)
    negative = torch.einsum("bd,nd->bn", query, queue).float()  # (B, N)
    if mask is not None:
        negative = negative.masked_fill(mask, float("-inf"))
    return torch.cat([positive[:, None], negative], dim=1) / temperature


def info_nce(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """InfoNCE against a queue of past keys (He et al., arXiv 1911.05722, eq. 1).

    ``-log(exp(z_q.z_k / tau) / (exp(z_q.z_k / tau) + sum_n exp(z_q.queue_n / tau)))``

    Args:
        query: See :func:`info_nce_logits`, as all arguments.
        key: Likewise.
        queue: Likewise.
        temperature: Likewise.
        mask: Likewise.

    Returns:
        Loss of each sample, ``(B,)`` float32, in nats; 0 where a query has no negatives.
    """
    logits = info_nce_logits(query, key, queue, temperature=temperature, mask=mask)
    return F.cross_entropy(
        logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="none"
    )
