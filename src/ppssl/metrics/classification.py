"""How good a classifier is, over all batches and processes: top-1, top-5, macro accuracy, and what it confuses."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.utilities.data import dim_zero_cat

from ppssl.metrics.retrieval import first_occurrence, gather_rows
from ppssl.utils.errors import UserError, did_you_mean

__all__ = [
    "ClassificationMetrics",
    "check_same_classes",
    "class_number",
    "class_recall",
    "confused_pairs",
    "confusion_matrix",
]

TOP = 5


class ClassificationMetrics(Metric):
    """``top1``, ``top5`` and ``macro`` (the mean over classes of their top-1 accuracy), float32 scalars in [0, 1].

    Each image counts once, by its index, whatever the sampler of several processes repeats; those with a negative
    (unknown) label do not count, nor do classes without an image in ``macro`` (sklearn's balanced accuracy). With fewer
    than five classes ``top5`` is 1.

    Args:
        num_classes: K.
        kwargs: Of `torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False
    index: list[Tensor] | Tensor
    label: list[Tensor] | Tensor
    ranked: list[Tensor] | Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows} | kwargs)
        self.num_classes = num_classes
        for name in ("index", "label", "ranked"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, label: Tensor, index: Tensor) -> None:
        """Add a batch: ``(B, K)`` floating point, ``(B,)`` and ``(B,)`` integers."""
        known = label >= 0
        ranked = logits[known].topk(min(TOP, self.num_classes), dim=1).indices
        for state, rows in (
            (self.index, index[known]),
            (self.label, label[known]),
            (self.ranked, ranked),
        ):
            state.append(rows.long())  # type: ignore[union-attr]  # a list until it is reduced

    def compute(self) -> dict[str, Tensor]:
        """The accuracies, NaN without images; and ``index``, ``label`` and ``predicted`` class, ``(N,)``."""
        if not len(self.index):
            nothing = torch.empty(0, dtype=torch.long, device=self.device)
            index, label, ranked = nothing, nothing, nothing[:, None]
        else:
            index, label, ranked = (dim_zero_cat(s) for s in (self.index, self.label, self.ranked))
        once = first_occurrence(index)
        index, label, ranked = index[once], label[once], ranked[once]
        hits = ranked == label[:, None]
        return {
            "top1": hits[:, 0].float().mean(),
            "top5": hits.any(dim=1).float().mean(),
            "macro": class_recall(
                confusion_matrix(label, ranked[:, 0], self.num_classes)
            ).nanmean(),
            "index": index,
            "label": label,
            "predicted": ranked[:, 0],
        }


def confusion_matrix(label: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """``(K, K)`` int64: how many images of a class (row) were taken for a class (column)."""
    return multiclass_confusion_matrix(predicted, label, num_classes=num_classes)


def class_recall(confusion: Tensor) -> Tensor:
    """``(K, K)`` counts -> ``(K,)`` float32: the share of each class that is recognised; NaN for one without images."""
    return confusion.diagonal() / confusion.sum(dim=1)


def confused_pairs(confusion: Tensor, count: int) -> list[tuple[int, int]]:
    """The pairs of classes that are most often taken for each other, worst first; none that never are.

    Args:
        confusion: ``(K, K)`` counts, see :func:`confusion_matrix`.
        count: How many at most.
    """
    mutual = torch.triu(confusion + confusion.T, diagonal=1)
    worst = mutual.flatten().sort(descending=True, stable=True)
    pairs = [divmod(int(place), len(confusion)) for place in worst.indices[:count]]
    return [pair for pair in pairs if mutual[pair] > 0]


def check_same_classes(own: list[str], *, data: list[str]) -> None:
    """Raise where a classifier's classes are not those of the data, in the same order.

    Raises:
        UserError: With the names that either lacks.
    """
    if own == data:
        return
    missing, new = ([name for name in a if name not in b] for a, b in ((own, data), (data, own)))
    told = [
        f"{who} lacks {', '.join(names[:3])}{' ...' * (len(names) > 3)}"
        for who, names in (("the data", missing), ("the classifier", new))
        if names
    ]
    raise UserError(
        f"The data has {len(data)} classes and the classifier {len(own)}, not the same ones "
        f"({'; '.join(told) or 'their order differs'}): train a new one from its encoder, "
        "`--model.pretrained path/to/last.ckpt`."
    )


def class_number(model: nn.Module, name: str) -> int:
    """Which logit of a classifier is a class's.

    Args:
        model: A :class:`~ppssl.classify.base.Classifier`.
        name: Of the class, or its number.

    Raises:
        UserError: No classifier, or none of its classes.
    """
    classes: list[str] = list(getattr(model, "classes", None) or [])
    if not classes:
        raise UserError(
            f"`--class {name}` asks for a class, and this {type(model).__name__} has none: give the checkpoint of a "
            "classifier (`ppssl fit --config ppssl:folder/finetune`), or leave it out."
        )
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    hint = did_you_mean(name, classes, f", such as {', '.join(classes[:3])}")
    raise UserError(f"`--class {name}` is none of the {len(classes)} classes{hint}.")
