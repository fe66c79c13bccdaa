"""Protocol lcr-2023: the end of training, and beside it what the test images chose, marked so."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from ppssl import PPSSL, FolderDataModule, LinearProbe, UserError
from ppssl.data.labelled_augmentation import LabelledAugmentation
from ppssl.evaluation.lcr_protocol import checkpoints_of, evaluate_lcr, sgd_probe
from ppssl.evaluation.splits import embed_splits
from ppssl.inference.embeddings import feature_encoder
from ppssl.metrics.retrieval import retrieval_metrics
from ppssl.utils.results import unpack_bits

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def _data(folder: Path, **kwargs: Any) -> FolderDataModule:
    return FolderDataModule(
        str(folder), **{"image_size": 32, "batch_size": 8, "num_workers": 0, "seed": 0} | kwargs
    )


def _save(path: Path, seed: int, step: int) -> Path:
    torch.manual_seed(seed)
    model, trainer = PPSSL(**TINY), Trainer(**QUIET)
    model.trainer = trainer
    trainer.strategy.connect(model)
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    trainer.save_checkpoint(path)
    return path


def test_sgd_is_that_of_the_equations() -> None:
    """``v <- m v + g; w <- w - lr v`` with the mean gradient ``(softmax - onehot) x`` of each batch, by hand."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=rng), torch.tensor([0, 1, 2, 0, 1, 2])
    test = torch.randn(4, 3, generator=rng)
    head = nn.Linear(3, 3)
    w, b = head.weight.detach().double().clone(), head.bias.detach().double().clone()
    found = sgd_probe(x, y, test, head=head, lr=0.5, batch_size=4, epochs=5, seed=2)
    v_w, v_b = torch.zeros_like(w), torch.zeros_like(b)
    from ppssl.utils.randomness import generator

    for epoch in range(5):
        lr = 0.5 * (0.1 if epoch >= 3 else 1) * (0.1 if epoch >= 4 else 1)
        order = generator(2, "order", epoch).permutation(6)
        for rows in (order[:4], order[4:]):
            g_w, g_b = torch.zeros_like(w), torch.zeros_like(b)
            for i in rows:
                logits = w @ x[i].double() + b
                delta = logits.softmax(0)
                delta[y[i]] -= 1
                g_w += delta[:, None] * x[i].double()[None] / len(rows)
                g_b += delta / len(rows)
            v_w, v_b = 0.9 * v_w + g_w, 0.9 * v_b + g_b
            w, b = w - lr * v_w, b - lr * v_b
        assert found[epoch].equal((test.double() @ w.T + b).argmax(dim=1))
    torch.testing.assert_close(head.weight.double(), w, atol=1e-5, rtol=1e-5)


def test_cached_embeddings_and_views_without_augmentation_train_the_same_classifier(
    image_folder: Path,
) -> None:
    """`LinearProbe`, whose views are whole images here, ends up with the weights that fixed embeddings lead to."""
    data = _data(image_folder, eval_crop=1.0, val_fraction=0)
    for path in image_folder.rglob("*.png"):
        _square(path)
    still = LabelledAugmentation(
        crop_scale=(1, 1), crop_ratio=(1, 1), flip_probability=0, rand_augment_ops=0
    )
    torch.manual_seed(1)
    probe = LinearProbe(**TINY, num_classes=3, augmentation=still, lr=3.0, seed=0)
    head = nn.Linear(probe.encoder.info.dim, 3)
    head.load_state_dict(probe.head.state_dict())
    splits = embed_splits(probe.encoder.model, _data(image_folder, eval_crop=1.0))
    sgd_probe(
        splits.gallery.features,
        splits.gallery.labels,
        splits.queries.features,
        head=head,
        lr=3.0,
        batch_size=8,
        epochs=5,
        seed=0,
    )
    Trainer(**QUIET, max_epochs=5).fit(probe, data)
    assert (head.weight - probe.head.weight).abs().max() < 1e-4
    assert head.weight.abs().max() > 0.1


def _square(path: Path) -> None:
    from PIL import Image

    Image.open(path).resize((32, 32)).save(path)


def test_the_end_and_the_best_on_test_are_told_apart(image_folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    from PIL import Image

    for path in image_folder.rglob("*.png"):  # not every image is recognised
        pixels = np.asarray(Image.open(path)) * 0.2 + noise.normal(100, 25, 3)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    paths = [_save(folder / f"{seed}.ckpt", seed, step=seed) for seed in (0, 1, 2)]
    assert checkpoints_of(folder) == paths
    data, reached = _data(image_folder), []
    for path in paths:
        queries = embed_splits(feature_encoder(path), data).queries
        reached.append(retrieval_metrics(queries.features, queries.labels))
    best = max(range(3), key=lambda i: reached[i]["rank-1"])
    assert best != 2
    results = evaluate_lcr(paths, data, epochs=10)
    assert results.protocol == "lcr-2023"
    for name in ("rank-1", "rank-5", "mAP"):
        assert results.metrics[name] == pytest.approx(reached[2][name])
        assert results.metrics[f"best-on-test-{name}"] == pytest.approx(reached[best][name])
        low, high = results.intervals[name]
        assert low <= results.metrics[name] <= high
    assert results.metrics["linear"] == unpack_bits(results.per_image["linear"]).mean()
    told = results.config["best_on_test"]
    assert told["checkpoint"] == str(paths[best])
    whole = evaluate_lcr([paths[best]], data, epochs=10)
    assert results.metrics["best-on-test-linear"] == whole.metrics["best-on-test-linear"]
    assert whole.metrics["best-on-test-linear"] >= whole.metrics["linear"]
    assert set(whole.metrics) == set(results.metrics) == set(results.units)
    json.dumps(results.to_dict())


def test_without_labels_of_queries_nothing_is_trained(image_folder: Path, tmp_path: Path) -> None:
    for path in (image_folder / "test").rglob("*.png"):
        path.rename(image_folder / "test" / f"{path.parent.name}-{path.name}")
    with pytest.raises(UserError, match="no image of the test split has a label"):
        evaluate_lcr([_save(tmp_path / "a.ckpt", 0, 1)], _data(image_folder))


def test_checkpoints_are_taken_by_step_and_once(tmp_path: Path) -> None:
    late, early = _save(tmp_path / "a.ckpt", 0, 20), _save(tmp_path / "b.ckpt", 0, 3)
    last = _save(tmp_path / "last.ckpt", 0, 20)
    os.utime(late, (1, 1))
    assert checkpoints_of(tmp_path) == [early, last]
    assert checkpoints_of(late) == [late]
    with pytest.raises(UserError, match=r"No checkpoint \(\*\.ckpt\) in the folder"):
        checkpoints_of(tmp_path / "..")
    with pytest.raises(UserError, match="No such checkpoint"):
        checkpoints_of(tmp_path / "none.ckpt")
