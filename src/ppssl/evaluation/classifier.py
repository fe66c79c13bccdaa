"""Evaluation of a trained classifier by the protocol ``accuracy-1``: top-1, top-5 and macro accuracy.

``accuracy-1`` evaluates the last weights (the moving average if there is one) on the un-augmented images of the test
split; without one on those of the validation split, else on the held-out part of the training images. Nothing is
selected on the test images.
"""

import torch

from ppssl.classify.base import Classifier
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.normalisation import normalised
from ppssl.evaluation.splits import query_images
from ppssl.inference.embeddings import embed_loader
from ppssl.metrics.classification import TOP, ClassificationMetrics, check_same_classes
from ppssl.utils.randomness import resolve_seed
from ppssl.utils.results import Results, pack_bits

__all__ = ["ACCURACIES", "PROTOCOL", "evaluate_classifier"]

PROTOCOL = "accuracy-1"
ACCURACIES = ("top-1", "top-5", "macro")
"""The metrics that tables show."""


def evaluate_classifier(model: Classifier, data: FineGrainedDataModule) -> Results:
    """Evaluate a classifier on a data set of the same classes, on the model's current device.

    Args:
        model: A trained :class:`~ppssl.FineTune` or :class:`~ppssl.LinearProbe`.
        data: The data set.

    Returns:
        ``top-1``, ``top-5`` and ``macro`` in [0, 1] (:class:`~ppssl.metrics.classification.ClassificationMetrics`),
        and for top-1 and top-5 whether each image was predicted correctly.

    Raises:
        UserError: The data set has other classes, or no labelled image to evaluate on.
    """
    data.setup()
    check_same_classes(model.classes, data=data.classes)
    info = model.encoder.info
    split, items = query_images(data)
    loader = data.eval_loader(split, items)
    with normalised(data, info.mean, info.std):
        outputs = embed_loader(model, loader, data, description=f"Classifying {split}")
    has_label = outputs.labels >= 0
    logits, labels = outputs.features.cpu()[has_label], outputs.labels[has_label]
    metrics = ClassificationMetrics(len(model.classes))
    metrics.update(logits, labels, outputs.index[has_label])
    accuracy = metrics.compute()
    hits = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]
    return Results(
        metrics={
            "top-1": float(accuracy["top1"]),
            "top-5": float(accuracy["top5"]),
            "macro": float(accuracy["macro"]),
        },
        units=dict.fromkeys(ACCURACIES, "fraction"),
        protocol=PROTOCOL,
        seed=resolve_seed(data.seed),
        config={"model": model.config(), "data": data.config()},
        per_image={
            "top-1": pack_bits(hits[:, 0].numpy()),
            "top-5": pack_bits(torch.any(hits, dim=1).numpy()),
        },
    )
