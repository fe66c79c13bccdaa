"""How good a trained classifier is on images that it has not seen, with what each of them was taken for right or wrong.

``accuracy-1``: the last weights (the moving average where there is one), un-augmented images, the test split, or where
there is none the held-out part of the training images. Nothing is chosen on them.
"""

import torch

from ppssl.classify.base import Classifier
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.inference.embeddings import embed_loader
from ppssl.metrics.classification import TOP, ClassificationMetrics, check_same_classes
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import resolve_seed
from ppssl.utils.results import Results, pack_bits

__all__ = ["ACCURACIES", "PROTOCOL", "measure_classifier"]

PROTOCOL = "accuracy-1"
ACCURACIES = ("top-1", "top-5", "macro")
"""The metrics, as tables show them."""


def measure_classifier(model: Classifier, data: FineGrainedDataModule) -> Results:
    """Measure a classifier on a data set of the same classes, on the device that it is on.

    Args:
        model: A :class:`~ppssl.FineTune` or :class:`~ppssl.LinearProbe`, trained.
        data: The data set.

    Returns:
        ``top-1``, ``top-5`` and ``macro`` (:class:`~ppssl.metrics.classification.ClassificationMetrics`), and the
        hits of each image of the first two.

    Raises:
        UserError: The data has other classes, or no label to compare with.
    """
    data.setup()
    check_same_classes(model.classes, data=data.classes)
    info = model.encoder.info
    data.normalise_with(info.mean, info.std)
    split, items = ("test", None) if "test" in data.sources else ("train", data.train_val)
    if items is not None and not len(items):
        raise UserError(
            "Nothing to measure on: no `test/` folder, and `val_fraction` holds none out."
        )
    rows = embed_loader(
        model, data.eval_loader(split, items), data, description=f"Classifying {split}"
    )
    known = rows.labels >= 0
    if not known.any():
        raise UserError(f"Nothing to compare with: no image of the {split} split has a label.")
    logits, labels = rows.features[known], rows.labels[known]
    metrics = ClassificationMetrics(len(model.classes))
    metrics.update(logits, labels, rows.index[known])
    found = metrics.compute()
    hits = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]
    return Results(
        metrics={
            name: float(found[key])
            for name, key in zip(ACCURACIES, ("top1", "top5", "macro"), strict=True)
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
