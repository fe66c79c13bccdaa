"""Classification metrics over batches and processes: top-1, top-5 and macro accuracy, confusion matrix."""

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
"""k of the top-k accuracy beside top-1."""


class ClassificationMetrics(Metric):
    """Top-1, top-5 and macro accuracy: ``top1``, ``top5`` and ``macro``, float32 scalars in [0, 1].

    ``macro`` is the mean over classes of their top-1 accuracy (sklearn's balanced accuracy), without classes that have
    no image. Each image counts once, by its index, even if a distributed sampler repeats it; images with a negative
    (unknown) label do not count. With at most five classes ``top5`` is 1.

    Args:
        num_classes: Number of classes K.
        kwargs: Arguments of `torchmetrics.Metric`.
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
        """Add a batch: logits ``(B, K)`` floating point, labels ``(B,)`` and image numbers ``(B,)`` integers."""
        has_label = label >= 0
        ranked = logits[has_label].topk(min(TOP, self.num_classes), dim=1).indices
        for state, rows in (
            (self.index, index[has_label]),
            (self.label, label[has_label]),
            (self.ranked, ranked),
        ):
            state.append(rows.long())  # type: ignore[union-attr]  # a list until it is reduced

    def compute(self) -> dict[str, Tensor]:
        """Return the accuracies, NaN without images; and ``index``, ``label`` and ``predicted`` class, ``(N,)``."""
        if not len(self.index):
            empty = torch.empty(0, dtype=torch.long, device=self.device)
            index, label, ranked = empty, empty, empty[:, None]
        else:
            index, label, ranked = (dim_zero_cat(s) for s in (self.index, self.label, self.ranked))
        once = first_occurrence(index)
        index, label, ranked = index[once], label[once], ranked[once]
        hits = ranked == label[:, None]
        confusion = confusion_matrix(label, ranked[:, 0], self.num_classes)
        return {
            "top1": hits[:, 0].float().mean(),
            "top5": hits.any(dim=1).float().mean(),
            "macro": class_recall(confusion).nanmean(),
            "index": index,
            "label": label,
            "predicted": ranked[:, 0],
        }


def confusion_matrix(label: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix, ``(K, K)`` int64: number of images by true class (row) and predicted class (column)."""
    return multiclass_confusion_matrix(predicted, label, num_classes=num_classes)


def class_recall(confusion: Tensor) -> Tensor:
    """Recall of each class from a confusion matrix: ``(K, K)`` counts -> ``(K,)`` float32; NaN without images."""
    return confusion.diagonal() / confusion.sum(dim=1)


def confused_pairs(confusion: Tensor, count: int) -> list[tuple[int, int]]:
    """List the most confused pairs of classes, in descending order; pairs that are never confused are left out.

    Args:
        confusion: ``(K, K)`` counts, see :func:`confusion_matrix`.
        count: Largest number of pairs.
    """
    mutual = torch.triu(confusion + confusion.T, diagonal=1)
    order = mutual.flatten().argsort(descending=True, stable=True)
    pairs = [divmod(int(position), len(confusion)) for position in order[:count]]
    return [pair for pair in pairs if mutual[pair] > 0]


def check_same_classes(classifier: list[str], *, data: list[str]) -> None:
    """Check that a classifier and a data set have the same classes in the same order.

    Args:
        classifier: Class names of the classifier.
        data: Class names of the data set.

    Raises:
        UserError: The classes differ; the message names the missing ones.
    """
    if classifier == data:
        return
    missing = {
        "the data set": [name for name in classifier if name not in data],
        "the classifier": [name for name in data if name not in classifier],
    }
    differences = [
        f"{owner} lacks {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for owner, names in missing.items()
        if names
    ]
    raise UserError(
        f"The {len(data)} classes of the data set differ from the {len(classifier)} classes of the classifier "
        f"({'; '.join(differences) or 'their order differs'}): train a new classifier from the encoder with "
        "`--model.pretrained path/to/last.ckpt`."
    )


def class_number(model: nn.Module, name: str) -> int:
    """Return the number of a classifier's logit for a class.

    Args:
        model: A :class:`~ppssl.classify.base.Classifier`.
        name: Name or number of the class.

    Raises:
        UserError: The model is not a classifier, or it has no such class.
    """
    classes: list[str] = list(getattr(model, "classes", None) or [])
    if not classes:
        raise UserError(
            f"`--class {name}` needs a classifier, and this {type(model).__name__} has no classes: give the checkpoint "
            "of a classifier (`ppssl fit --config ppssl:folder/finetune`), or leave out `--class`."
        )
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    hint = did_you_mean(name, classes, f", such as {', '.join(classes[:3])}")
    raise UserError(f"`--class {name}` is not one of the {len(classes)} classes{hint}.")
