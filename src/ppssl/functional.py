"""The losses as pure functions of tensors: values per sample, no reduction, no logging, no trainer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "info_nce",
    "info_nce_logits",
    "perplexity_temperature",
    "student_log_probabilities",
    "teacher_probabilities",
    "text_bank_distillation",
]


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


def teacher_probabilities(
    teacher: Tensor,
    texts: Tensor,
    *,
    temperature: float,
    hubs: Tensor | None = None,
    top_k: int | None = None,
) -> Tensor:
    """Which descriptions the teacher sees in an image: ``P_i = softmax_j(t'_ij / tau_T)`` (METHOD D5, D6; F10).

    Args:
        teacher: v, ``(B, e)`` L2-normalised image embeddings, or ``(B, k, e)`` of k crops, over which P is averaged.
        texts: T, ``(M, e)`` L2-normalised text embeddings.
        temperature: tau_T > 0.
        hubs: ``(M,)`` mean similarity of each description over the training set, subtracted; ``None``: nothing is.
        top_k: How many of an image's best descriptions keep their probability, renormalised; ``None``: all.

    Returns:
        P, ``(B, M)`` float32 (float64 for float64 input), rows sum to 1; no gradient.
    """
    _check_bank(teacher, texts, temperature, "teacher")
    if top_k is not None and not 1 <= top_k <= len(texts):
        raise ValueError(f"`top_k` must be in [1, {len(texts)}] or None, got {top_k}.")
    with torch.no_grad():
        logits = _similarities(teacher, texts)
        if hubs is not None:
            logits = logits - hubs
        if top_k is not None:
            best = logits.topk(top_k, dim=-1).indices
            dropped = torch.ones_like(logits, dtype=torch.bool).scatter(-1, best, False)
            logits = logits.masked_fill(dropped, float("-inf"))
        probabilities = (logits / temperature).softmax(dim=-1)
        return probabilities if teacher.ndim == 2 else probabilities.mean(dim=1)


def student_log_probabilities(
    student: Tensor, texts: Tensor, *, temperature: float | Tensor
) -> Tensor:
    """Which descriptions the student sees: ``log Q``, ``Q = softmax_j(s . T_j / tau_S)`` (METHOD, "AIS").

    Args:
        student: s, ``(B, e)``, L2-normalised; receives gradient.
        texts: T, ``(M, e)``, L2-normalised.
        temperature: tau_S > 0, a number or a scalar tensor, which then receives gradient.

    Returns:
        ``(B, M)`` float32 (float64 for float64 input).
    """
    checked = 1.0 if isinstance(temperature, Tensor) else temperature  # no wait for a GPU
    _check_bank(student, texts, checked, "student")
    return (_similarities(student, texts) / temperature).log_softmax(dim=-1)


def text_bank_distillation(
    student: Tensor,
    teacher: Tensor,
    texts: Tensor,
    *,
    student_temperature: float | Tensor,
    teacher_temperature: float,
    hubs: Tensor | None = None,
    top_k: int | None = None,
) -> Tensor:
    """Distillation over a text bank, ``KL(P || Q)`` of each image (METHOD, "AIS"; F3, F10).

    Args:
        student: s; see :func:`student_log_probabilities`.
        teacher: v; see :func:`teacher_probabilities`, as the rest.
        texts: T.
        student_temperature: tau_S.
        teacher_temperature: tau_T.
        hubs: Mean similarity of each description.
        top_k: How many descriptions P keeps.

    Returns:
        ``(B,)`` float32 (float64 for float64 input), in nats, >= 0 but for rounding. The gradient reaches ``student``
        and ``student_temperature`` alone.
    """
    p = teacher_probabilities(
        teacher, texts, temperature=teacher_temperature, hubs=hubs, top_k=top_k
    )
    log_q = student_log_probabilities(student, texts, temperature=student_temperature)
    return F.kl_div(log_q, p, reduction="none").sum(dim=1)


def perplexity_temperature(similarities: Tensor, perplexity: float) -> float:
    """The temperature at which ``softmax(similarities / tau)`` has a given mean perplexity, by bisection (METHOD D5).

    Args:
        similarities: ``(N, M)``.
        perplexity: exp of the entropy in nats, averaged over the rows; strictly between 1 and M.

    Returns:
        tau in [1e-5, 1e3]; the nearer end where no temperature between them reaches it (rows with ties).
    """
    if similarities.ndim != 2 or not 1 < perplexity < similarities.shape[1]:
        raise ValueError(
            f"`perplexity` must lie between 1 and the columns of {tuple(similarities.shape)}, got {perplexity}."
        )
    values = similarities.double()
    low, high = math.log(1e-5), math.log(1e3)
    for _ in range(60):
        middle = (low + high) / 2
        log_p = (values / math.exp(middle)).log_softmax(dim=1)
        entropy = -(log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=1)
        low, high = (middle, high) if entropy.exp().mean() < perplexity else (low, middle)
    return math.exp((low + high) / 2)


def _similarities(embeddings: Tensor, texts: Tensor) -> Tensor:
    """Cosines in float32 whatever the autocast: a bf16 product has 3 digits, and tau_T magnifies the rest."""
    dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    with torch.autocast(embeddings.device.type, enabled=False):
        return embeddings.to(dtype) @ texts.to(dtype).T


def _check_bank(embeddings: Tensor, texts: Tensor, temperature: float, name: str) -> None:
    dims = (2, 3) if name == "teacher" else (2,)
    if embeddings.ndim not in dims or texts.ndim != 2 or embeddings.shape[-1] != texts.shape[1]:
        raise ValueError(
            f"`{name}` must be (B, e) and `texts` (M, e), got {tuple(embeddings.shape)} and {tuple(texts.shape)}."
        )
    if temperature <= 0:
        raise ValueError(f"`{name}`'s temperature must be > 0, got {temperature}.")
