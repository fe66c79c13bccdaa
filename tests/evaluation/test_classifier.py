"""A trained classifier's accuracies, against its own logits image by image and scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import balanced_accuracy_score

from ppssl import FineTune, FolderDataModule, UserError
from ppssl.evaluation.classifier import evaluate_classifier
from ppssl.utils.results import unpack_bits

SMALL = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}, "seed": 0, "init_seed": 0}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "limit_val_batches": 0,
}


def _data(images: Path, **kwargs: Any) -> FolderDataModule:
    small = {"image_size": 32, "batch_size": 6, "num_workers": 0, "val_fraction": 0.25, "seed": 0}
    return FolderDataModule(str(images), **small | kwargs)


def _logits(model: FineTune, data: FolderDataModule, split: str, items: range | np.ndarray) -> Any:
    """``(N, K)``, each image alone."""
    dataset = data.eval_dataset(split, np.array(items))
    model.eval()
    with torch.no_grad():
        rows = [model(data.normalise(row["image"][None]))[0] for row in dataset]
    return torch.stack(rows), np.array([int(row["label"]) for row in dataset])


def test_accuracies_are_those_of_each_image_alone(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "test" / "class2" / "0.png").unlink()  # not as many of each class
    data, model = _data(image_folder), FineTune(**SMALL)
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, **QUIET)
    trainer.fit(model, data)
    results = evaluate_classifier(model, data)
    logits, labels = _logits(model, data, "test", range(11))
    predicted = logits.argmax(dim=1).numpy()
    assert np.array_equal(unpack_bits(results.per_image["top-1"]), predicted == labels)
    assert results.metrics["top-1"] == pytest.approx(np.mean(predicted == labels))
    assert results.metrics["macro"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert results.metrics["top-5"] == 1.0  # of three classes
    (tested,) = trainer.test(model, data, verbose=False)
    assert tested["test/top1"] == pytest.approx(results.metrics["top-1"])
    assert results.config["model"]["class_path"].endswith("FineTune")


def test_without_a_test_split_it_is_the_held_out_part(image_folder: Path, tmp_path: Path) -> None:
    data, model = _data(image_folder / "train"), FineTune(**SMALL)
    Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET).fit(model, data)
    results = evaluate_classifier(model, data)
    logits, labels = _logits(model, data, "train", data.train_val)
    assert len(labels) == 6
    right = (logits.argmax(dim=1).numpy() == labels).tolist()
    assert unpack_bits(results.per_image["top-1"]).tolist() == right


def test_what_cannot_be_measured_is_said(image_folder: Path) -> None:
    model = FineTune(**SMALL)
    model.build(["class0", "class1", "other"])
    with pytest.raises(UserError, match="the data set lacks other; the classifier lacks class2"):
        evaluate_classifier(model, _data(image_folder))
    model.build(["class0", "class1", "class2"])
    with pytest.raises(UserError, match="no labelled image is held out"):
        evaluate_classifier(model, _data(image_folder / "train", val_fraction=0))
    for path in (image_folder / "test").rglob("*.png"):
        path.rename(image_folder / "test" / f"{path.parent.name}-{path.name}")
    with pytest.raises(UserError, match="no image of the test split has a label"):
        evaluate_classifier(model, _data(image_folder))


def test_init_seed_gives_all_initial_weights() -> None:
    """Of encoder and linear layer, whatever was drawn before."""
    made = []
    for k in (1, 2):
        torch.manual_seed(k)
        made.append(FineTune(**SMALL, num_classes=3).state_dict())
    assert made[0].keys() == made[1].keys()
    for name, value in made[0].items():
        torch.testing.assert_close(made[1][name], value, rtol=0, atol=0, msg=name)


def test_beside_a_validation_split_it_is_that(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "test").rename(image_folder / "val")
    data, model = _data(image_folder), FineTune(**SMALL)
    Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET).fit(model, data)
    results = evaluate_classifier(model, data)
    logits, labels = _logits(model, data, "val", range(12))
    right = (logits.argmax(dim=1).numpy() == labels).tolist()
    assert unpack_bits(results.per_image["top-1"]).tolist() == right
