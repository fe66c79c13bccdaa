"""Fewer labels, untrained encoders and files of embeddings: the same numbers, whichever way they are asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ppssl import PPSSL, FolderDataModule, UserError, embed, evaluate
from ppssl.data.label_splits import select_held_out
from ppssl.encoder import Encoder
from ppssl.evaluation.evaluate_rows import evaluate_rows
from ppssl.evaluation.splits import Splits, embed_splits, read_splits
from ppssl.inference.embeddings import Embeddings
from ppssl.utils.randomness import initial_weights

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}


def _data(folder: Path, **kwargs: Any) -> FolderDataModule:
    return FolderDataModule(
        str(folder), **{"image_size": 32, "batch_size": 7, "num_workers": 0} | kwargs
    )


def _model(seed: int = 0, **kwargs: Any) -> PPSSL:
    torch.manual_seed(seed)
    return PPSSL(**TINY | kwargs)


def _same(found: Any, expected: Any) -> bool:
    return (
        found.metrics == pytest.approx(expected.metrics, nan_ok=True)
        and found.per_image == expected.per_image
    )


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """As everywhere, but the colour says the class in some images only."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label in range(3):
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                colour = rng.normal(120 + 30 * (np.arange(3) == label), 30)
                pixels = colour + rng.normal(0, 30, (40, 48, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(folder / f"{i}.png")
    return tmp_path / "images"


def test_a_row_of_each_part_of_the_labels_is_what_evaluate_finds(image_folder: Path) -> None:
    model, data = _model(), _data(image_folder, seed=3)
    rows = evaluate_rows(model, data, label_fractions=[1.0, 0.5, 0.25])
    assert [(row.encoder, row.label_fraction) for row in rows] == [
        ("checkpoint", 1.0),
        ("checkpoint", 0.5),
        ("checkpoint", 0.25),
    ]
    for row in rows:
        alone = evaluate(model, _data(image_folder, seed=3, label_fraction=row.label_fraction))
        assert _same(row.results, alone)
        assert row.results.config == alone.config
    assert rows[0].results.metrics["mAP"] == rows[2].results.metrics["mAP"]  # no label is looked up
    assert rows[0].results.per_image["knn-1"] != rows[2].results.per_image["knn-1"]


def test_without_a_test_split_all_parts_have_the_same_queries(image_folder: Path) -> None:
    data = _data(image_folder / "train", val_fraction=0.25)
    rows = evaluate_rows(_model(), data, label_fractions=[1.0, 0.4])
    assert _same(rows[0].results, evaluate(_model(), data))
    assert {row.results.per_image["knn-1"][:2] for row in rows} == {"6:"}


def test_untrained_encoders_are_of_the_same_architecture(
    image_folder: Path, tmp_path: Path
) -> None:
    data = _data(image_folder, seed=5)
    weights = tmp_path / "weights.safetensors"
    state = _model(7).encoder.model.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, weights)
    model = _model(backbone_kwargs={"width": 6})
    with pytest.raises(UserError, match="do not fit the backbone"):
        evaluate_rows(model, data, imagenet=str(weights))
    model = _model()
    rows = evaluate_rows(
        model, data, label_fractions=[1.0, 0.5], random=True, imagenet=str(weights)
    )
    names = [row.encoder for row in rows]
    assert names == ["checkpoint"] * 2 + ["random"] * 2 + ["ImageNet"] * 2
    with initial_weights(5, "encoder"):
        random = Encoder("resnet_small", kwargs=TINY["backbone_kwargs"])
    for row, other in ((rows[2], random), (rows[4], _model(7))):
        assert _same(row.results, evaluate(other, data))
        assert row.results.config["model"]["class_path"] == "ppssl.encoder.Encoder"
    assert rows[4].results.config["model"]["init_args"]["pretrained"] == str(weights)
    assert rows[2].to_dict()["encoder"] == "random"
    with pytest.raises(UserError, match="no pretrained weights for `resnet_small`"):
        evaluate_rows(model, data, imagenet=True)
    with pytest.raises(UserError, match="a model of ppssl, got a ByobNet"):
        evaluate_rows(model.encoder.model, data, random=True)


def test_a_file_of_embeddings_takes_the_place_of_model_and_images(
    image_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "e.parquet"
    embed(_model(), _data(image_folder), file)
    expected = evaluate(_model(), _data(image_folder))
    found = evaluate(file)
    assert _same(found, expected)
    assert found.config["description"]["image_size"] == 32
    fewer = evaluate_rows(file, label_fractions=[0.5])[0]
    assert _same(fewer.results, evaluate(_model(), _data(image_folder, label_fraction=0.5)))
    assert fewer.results.config["label_fraction"] == 0.5
    with pytest.raises(UserError, match="holds `gap` embeddings, not `branch`"):
        evaluate(file, feature="branch")
    with pytest.raises(UserError, match="not a file of embeddings"):
        evaluate_rows(file, random=True)


def test_a_file_without_a_test_split_holds_labels_out(image_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "e.parquet"
    data = _data(image_folder / "train", val_fraction=0.1)
    embed(_model(), data, file)
    assert _same(evaluate(file), evaluate(_model(), data))


def test_broken_images_shift_no_label(image_folder: Path, tmp_path: Path) -> None:
    """The file then has fewer rows than the data set has images."""
    for name in ("class0/0.png", "class1/3.png"):
        (image_folder / "train" / name).write_bytes(b"no image")
    file = tmp_path / "e.parquet"
    data = _data(image_folder, on_error="skip")
    with pytest.warns(UserWarning, match="Skipped"):
        embed(_model(), data, file)
    assert pq.read_metadata(file).num_rows == 34
    with pytest.warns(UserWarning, match="Skipped"):
        expected = evaluate(_model(), _data(image_folder, on_error="skip"))
    assert _same(evaluate(file), expected)


def test_a_validation_split_queries_where_there_is_no_test(
    image_folder: Path, tmp_path: Path
) -> None:
    (image_folder / "test").rename(image_folder / "val")
    data, file = _data(image_folder), tmp_path / "e.parquet"
    results = evaluate(_model(), data)
    assert results.per_image["knn-1"].startswith("12:")
    embed(_model(), data, file)
    assert _same(evaluate(file), results)


def test_without_fractions_the_labels_are_the_data_sets(image_folder: Path) -> None:
    data = _data(image_folder, label_fraction=0.5)
    rows = evaluate_rows(_model(), data, random=True)
    assert [(row.encoder, row.label_fraction) for row in rows] == [
        ("checkpoint", 0.5),
        ("random", 0.5),
    ]
    assert _same(rows[0].results, evaluate(_model(), data))


@pytest.mark.parametrize("fraction", [0.01, 0.4, 0.7])
def test_of_each_class_an_image_that_is_no_query_stays(fraction: float) -> None:
    """Of held-out training images, too, the first of a class in the order of the labels may be a query."""
    labels = np.repeat([0, 1], 3)
    for seed in range(40):
        fit = np.setdiff1d(range(6), select_held_out(labels, np.arange(6), 0.1, seed))
        every = Embeddings(torch.zeros(6, 2), torch.from_numpy(labels), torch.arange(6) + 10)
        gallery, queries = (
            Embeddings(every.features[rows], every.labels[rows], every.index[rows])
            for rows in (fit, np.setdiff1d(range(6), fit))
        )
        splits = Splits(gallery, queries, "train", labels, offset=10)
        kept = splits.with_labels(fraction, seed).gallery
        assert np.bincount(kept.labels).tolist() == [max(1, round(fraction * 2))] * 2
        assert set(kept.index.tolist()) <= set(gallery.index.tolist())
        assert splits.with_labels(1.0, seed).gallery.index.equal(gallery.index)


def test_what_cannot_be_evaluated_is_said(image_folder: Path, tmp_path: Path) -> None:
    data = _data(image_folder, label_fraction=0.5)
    for fraction in (0.6, 0.0):
        with pytest.raises(UserError, match=r"must be in \(0, 0.5\], at most the data set's 0.5"):
            evaluate_rows(_model(), data, label_fractions=[fraction])
    with pytest.raises(UserError, match="`data` is missing"):
        evaluate(_model())
    with pytest.raises(UserError, match="No such file of embeddings"):
        evaluate(tmp_path / "none.parquet")
    with pytest.raises(UserError, match="no test split, and no labelled image is held out"):
        evaluate(_model(), _data(image_folder / "train", val_fraction=0))
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(image_folder.rglob("*.png"))):
        path.rename(flat / f"{i}.png")
    file = tmp_path / "e.parquet"
    embed(_model(), _data(flat), file)
    with pytest.raises(UserError, match="has no labelled training image"):
        evaluate(file)


def test_no_query_is_in_the_gallery(image_folder: Path, tmp_path: Path) -> None:
    """Of every way to split: a test split, held-out images, and a file of either."""
    encoder: Any = _model().encoder.model
    for folder in (image_folder, image_folder / "train"):
        data, file = _data(folder), tmp_path / f"{folder.name}.parquet"
        embed(encoder, data, file)
        for splits in (embed_splits(encoder, data), read_splits(file, seed=0)):
            assert not set(splits.gallery.index.tolist()) & set(splits.queries.index.tolist())
            few = splits.with_labels(0.3, 0)
            assert set(few.gallery.index.tolist()) < set(splits.gallery.index.tolist())
            assert np.bincount(few.gallery.labels.numpy()).tolist() == [2] * 3
