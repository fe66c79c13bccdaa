"""InfoNCE, distillation and saliency maps as pure functions of tensors, one value for each sample, no reduction."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ppssl.utils.checks import check_choice, check_range
from ppssl.utils.errors import ArgumentError
from ppssl.utils.half_precision import input_gradient
from ppssl.utils.local_mean import local_contrast

__all__ = [
    "Reference",
    "attend",
    "image_gradcam",
    "info_nce",
    "info_nce_logits",
    "saliency_kl",
    "saliency_target",
    "student_log_probabilities",
    "teacher_probabilities",
    "text_bank_distillation",
]

Reference = Literal["zero", "blur", "gradient"]
"""Reference of an image attribution, see :ref:`D9 <d9>`."""


def info_nce_logits(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """InfoNCE logits: similarity of each query to its key (column 0) and to the queue, over the temperature.

    Args:
        query: z_q, ``(B, D)``, L2-normalised; receives gradient.
        key: z_k, ``(B, D)``, L2-normalised, the positive of each query.
        queue: Keys of other images, past ones or those of the batch, ``(N, D)``, L2-normalised. N may be 0.
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
    check_range("> 0", temperature=temperature)
    with torch.autocast(query.device.type, enabled=False):  # bf16 rounds a cosine near 1 by 0.002
        positive = torch.einsum("bd,bd->b", query.float(), key.float())  # (B,)
        negative = torch.einsum("bd,nd->bn", query.float(), queue.float())  # (B, N)
    if mask is not None:
        negative = negative.masked_fill(mask, float("-inf"))
    return torch.cat([positive[:, None], negative], dim=1) / temperature


def info_nce(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """InfoNCE against a queue of past keys (He et al., arXiv 1911.05722, eq. 1).

    ``-log(exp(z_q.z_k / tau) / (exp(z_q.z_k / tau) + sum_n exp(z_q.queue_n / tau)))``

    The arguments are those of :func:`info_nce_logits`.

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
    """Teacher distribution over the descriptions: ``P_i = softmax_j(t'_ij / tau_T)``.

    See :ref:`D5 <d5>`, :ref:`D6 <d6>` and :ref:`F10 <f10>`.

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
        raise ArgumentError(f"`top_k` must be in [1, {len(texts)}] or None, got {top_k}.")
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
    """Student log-distribution over the descriptions: ``log Q``, ``Q_i = softmax_j(s_i . T_j / tau_S)``.

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
    """Distillation loss over a text bank: ``KL(P || Q)`` of each image (:ref:`F3 <f3>`, :ref:`F10 <f10>`).

    Args:
        student: s; see :func:`student_log_probabilities`, as ``texts`` and ``student_temperature``.
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


def image_gradcam(
    objective: Tensor | Callable[[Tensor], Tensor],
    images: Tensor,
    reference: Reference = "zero",
    rectify: bool = True,
) -> Tensor:
    """GradCAM of the input image: ``a = sum_c (x - r)_c * d ell / dx_c``.

    See :ref:`F4 <f4>`, :ref:`D9 <d9>` and :ref:`D17 <d17>`.

    The image takes the place of the feature map in Grad-CAM without averaged gradients (HiResCAM). With a feature map
    for ``images`` the result is HiResCAM itself, the saliency of LCR (:ref:`F8 <f8>`).

    Args:
        objective: ell of each image, ``(B,)``, with its graph down to ``images``; or what makes it of images.
        images: x, ``(B, C, H, W)``, normalised; a tensor whose gradient can be asked for, unless ``objective`` is a
            function.
        reference: r. ``"zero"``: the normalised mean; ``"blur"``: a local mean of the image, so that the map of an
            image of one colour is 0; ``"gradient"``: no product, the sum of ``|d ell / dx_c|`` alone.
        rectify: ReLU; otherwise the map is signed.

    Returns:
        ``(B, H, W)`` float32 (float64 for float64 images), no graph. The objective's graph stays for its own backward
        pass, and no ``.grad`` is touched: one ``torch.autograd.grad`` of the sum over images, no hooks. Under fp16 the
        sum is scaled against underflow (:func:`~ppssl.utils.half_precision.input_gradient`).
    """
    check_choice(get_args(Reference), reference=reference)
    if images.ndim != 4:
        raise ValueError(f"`images` must be (B, C, H, W), got {tuple(images.shape)}.")
    with torch.enable_grad():
        if callable(objective):
            images = images.detach().clone().requires_grad_()
        values = objective(images) if callable(objective) else objective
        if values.shape != images.shape[:1]:
            raise ValueError(f"`objective` must be (B,) = {len(images)}, got {[*values.shape]}.")
        gradient = input_gradient(values, images)
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    x, g = images.detach().to(dtype), gradient.to(dtype)
    if reference == "gradient":
        return g.abs().sum(dim=1)
    if reference == "blur":
        x = local_contrast(x)
    product = (x * g).sum(dim=1)
    return product.relu() if rectify else product


def saliency_target(
    attribution: Tensor,
    grid: tuple[int, int],
    *,
    order: Literal["pool_relu", "relu_pool"] = "pool_relu",
    sharpen: float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """Saliency target A*: an attribution as a distribution over a grid (:ref:`D9 <d9>`, :ref:`D10 <d10>`).

    Args:
        attribution: a, ``(B, H, W)``, signed.
        grid: ``(gh, gw)`` cells; average pooling.
        order: Pool, then rectify, or the other way round.
        sharpen: gamma >= 1; A* to this power, renormalised.
        bias: ``(gh, gw)`` > 0, what the maps of all images have in common; divided out before sharpening.

    Returns:
        ``(B, gh, gw)``, no gradient: each image sums to 1, uniform where its attribution is 0 everywhere. A constant
        factor of the attribution changes nothing.
    """
    check_range(">= 1", sharpen=sharpen)
    check_choice(("pool_relu", "relu_pool"), order=order)
    a = attribution.detach()
    a = a.relu() if order == "relu_pool" else a
    cells = F.adaptive_avg_pool2d(a[:, None], grid)[:, 0].relu().flatten(1)
    cells = cells if bias is None else cells / bias.flatten()
    cells = (
        cells / cells.amax(dim=1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    ) ** sharpen
    total = cells.sum(dim=1, keepdim=True)
    uniform = torch.full_like(cells, 1 / cells.shape[1])
    return torch.where(total > 0, cells / total.clamp(min=1e-12), uniform).unflatten(1, grid)


def saliency_kl(target: Tensor, log_map: Tensor) -> Tensor:
    """Divergence of a predicted map from its target: ``KL(A* || A)`` over all cells of an image.

    Args:
        target: A*, ``(B, gh, gw)``, sums to 1.
        log_map: log A, ``(B, gh, gw)``, normalised over the cells; receives gradient.

    Returns:
        ``(B,)`` in nats; of each image alone.
    """
    if target.shape != log_map.shape or target.ndim != 3:
        raise ValueError(
            f"`target` and `log_map` must be (B, gh, gw), got {tuple(target.shape)} and {tuple(log_map.shape)}."
        )
    return F.kl_div(log_map, target.detach(), reduction="none").sum(dim=(1, 2))


def attend(feature_map: Tensor, weights: Tensor) -> Tensor:
    """Attention pooling: ``sum over places of A * F`` (:ref:`D13 <d13>`).

    Args:
        feature_map: F, ``(B, C, h, w)``; receives gradient.
        weights: A, ``(B, h * u, w * u)``, sums to 1; the weight of a place is the sum over its u x u cells.

    Returns:
        ``(B, C)``.
    """
    places = (feature_map.shape[-2], feature_map.shape[-1])
    cells = weights.shape[-1] * weights.shape[-2] / (places[0] * places[1])
    coarse = F.adaptive_avg_pool2d(weights[:, None].to(feature_map.dtype), places)[:, 0] * cells
    return torch.einsum("bchw,bhw->bc", feature_map, coarse)


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
    check_range("> 0", **{f"{name}_temperature": temperature})
