import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from ppssl import PPSSL, FolderDataModule, SyntheticDataModule, UserError
from ppssl.data.synthetic.scene import NUISANCES
from ppssl.evaluation.bootstrap import image_intervals
from ppssl.evaluation.evaluate import compute_metrics, evaluate
from ppssl.inference.embeddings import Embeddings, embed_loader
from ppssl.utils.results import unpack_bits


def _data(folder: Path, **kwargs: Any) -> FolderDataModule:
    return FolderDataModule(
        str(folder), **{"image_size": 32, "batch_size": 7, "num_workers": 0} | kwargs
    )


def _model() -> PPSSL:
    torch.manual_seed(0)
    return PPSSL(backbone="resnet_small", backbone_kwargs={"width": 4})


def test_knn_is_scikit_learns_and_hits_are_per_image(image_folder: Path) -> None:
    model, data = _model(), _data(image_folder)
    results = evaluate(model, data)
    gallery, queries = (
        embed_loader(model.encoder, loader, data) for loader in data.test_dataloader()
    )
    unit = [torch.nn.functional.normalize(e.features, dim=1).numpy() for e in (gallery, queries)]
    expected = (
        KNeighborsClassifier(1, metric="cosine").fit(unit[0], gallery.labels).predict(unit[1])
    )
    hits = unpack_bits(results.per_image["knn-1"])
    assert np.array_equal(hits, expected == queries.labels.numpy())
    assert results.metrics["knn-1"] == pytest.approx(hits.mean())
    assert results.metrics["linear"] == pytest.approx(
        unpack_bits(results.per_image["linear"]).mean()
    )
    json.dumps(results.to_dict())


def test_intervals_are_of_the_means_over_test_images(image_folder: Path) -> None:
    data = _data(image_folder)
    results = evaluate(_model(), data)
    per_image = {"knn-1", "knn-5", "knn-10", "knn-20", "linear", "rank-1", "rank-5", "mAP"}
    assert set(results.intervals) == per_image == set(results.metrics) - {"rankme"}
    for name, (low, high) in results.intervals.items():
        assert 0 <= low <= results.metrics[name] <= high <= 1, name
    queries = embed_loader(_model().encoder, data.eval_loader("test"), data)
    unit = torch.nn.functional.normalize(queries.features.double(), dim=1)
    precision = []
    for i, label in enumerate(queries.labels):
        others = np.arange(len(unit)) != i
        relevant = (queries.labels == label).numpy()[others]
        precision.append(average_precision_score(relevant, (unit @ unit[i]).numpy()[others]))
    expected = image_intervals({"mAP": np.array(precision)})["mAP"]
    assert results.intervals["mAP"] == pytest.approx(expected, abs=1e-9)
    hits = unpack_bits(results.per_image["knn-10"])
    assert results.intervals["knn-10"] == image_intervals({"": hits})[""]


def test_images_that_are_alone_in_their_class_count_in_no_interval_of_retrieval() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 2, -1, 0, 1])
    queries = Embeddings(torch.randn(7, 4, generator=rng), labels, torch.arange(7))
    gallery = Embeddings(
        torch.randn(12, 4, generator=rng), torch.arange(12) % 3, torch.arange(7, 19)
    )
    found = compute_metrics(gallery, queries, seed=0)
    for name in ("rank-1", "rank-5", "mAP"):
        assert np.isnan(found.per_image[name]).tolist() == [0, 0, 0, 1, 0, 0]
        assert np.nanmean(found.per_image[name]) == pytest.approx(found.metrics[name])
    for name, hits in found.hits.items():  # of these the paired difference of two variants is made
        assert hits.dtype == bool
        assert hits.mean() == pytest.approx(found.metrics[name]), name
    assert len(found.hits["rank-1"]) == 5
    assert len(found.hits["knn-1"]) == 6


def _random(*labels: int, seed: int = 0) -> Embeddings:
    rng = torch.Generator().manual_seed(seed)
    index = torch.arange(len(labels))
    return Embeddings(torch.randn(len(labels), 4, generator=rng), torch.tensor(labels), index)


def test_a_k_above_the_size_of_the_gallery_is_left_out_with_a_line() -> None:
    gallery = _random(*[0, 1] * 6)
    with pytest.warns(UserWarning, match=r"^knn-20: left out, the gallery has 12 images.$"):
        found = compute_metrics(gallery, _random(0, 0, 1, 1, seed=1), seed=0)
    assert {name for name in found.metrics if "knn" in name} == {"knn-1", "knn-5", "knn-10"}
    assert not any("knn-20" in values for values in (found.hits, found.per_image))


def test_that_retrieval_is_not_defined_is_said() -> None:
    queries = _random(0, 1, -1, seed=1)
    with pytest.warns(UserWarning, match="mAP are not defined: no two queries have the same"):
        found = compute_metrics(_random(*[0, 1] * 10), queries, seed=0)
    assert np.isnan([found.metrics[name] for name in ("rank-1", "rank-5", "mAP")]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(image_folder: Path) -> None:
    on_cpu, on_gpu = (
        evaluate(_model(), _data(image_folder), device=device) for device in ("cpu", "cuda")
    )
    assert on_gpu.metrics == pytest.approx(on_cpu.metrics, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("where", [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_embeddings_may_be_anywhere(where: tuple[str, str]) -> None:
    rng = torch.Generator().manual_seed(0)
    gallery, queries = (
        Embeddings(torch.randn(n, 8, generator=rng), torch.arange(n) % 4, torch.arange(n))
        for n in (40, 30)
    )
    expected = compute_metrics(gallery, queries, seed=0)
    moved = (
        Embeddings(e.features.to(device), e.labels, e.index)
        for e, device in zip((gallery, queries), where, strict=True)
    )
    assert compute_metrics(*moved, seed=0).metrics == pytest.approx(expected.metrics, abs=1e-6)


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"num_workers": 2}])
def test_batch_size_and_workers_change_nothing(change: dict[str, int], image_folder: Path) -> None:
    first, second = (
        evaluate(_model(), _data(image_folder)),
        evaluate(_model(), _data(image_folder, **change)),
    )
    assert second.metrics == pytest.approx(first.metrics, abs=1e-4)


def test_the_model_is_left_as_it_was(image_folder: Path) -> None:
    model = _model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate(model, _data(image_folder))
    assert model.encoder.model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_are_gallery_and_queries_is_said(image_folder: Path, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        evaluate(_model(), _data(image_folder, label_fraction=0.5))
    line = "Gallery: 12 labelled training images. Queries: 12 images of the test split."
    assert line in caplog.messages


def test_without_a_test_split_the_held_out_part_queries(image_folder: Path, caplog: Any) -> None:
    data = _data(image_folder / "train", val_fraction=0.25)
    with caplog.at_level("INFO"):
        results = evaluate(_model(), data)
    assert "18 labelled training images. Queries: 6 held-out training images" in caplog.text
    assert "may have been pretrained on" in caplog.text
    assert len(unpack_bits(results.per_image["knn-1"])) == len(data.train_val) == 6


def test_fewer_labels_are_used(image_folder: Path) -> None:
    full, few = _data(image_folder), _data(image_folder, label_fraction=0.5)
    evaluate(_model(), full), evaluate(_model(), few)
    assert len(few.train_labelled) == len(full.train_labelled) / 2


def test_no_labels_is_said(image_folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(image_folder.rglob("*.png")):
        path.rename(flat / f"{i}.png")
    with pytest.raises(UserError, match="no training image has a label"):
        evaluate(_model(), _data(flat))


@pytest.mark.parametrize("split", ["test", "val"])
def test_no_labels_of_queries_is_said(image_folder: Path, split: str) -> None:
    (image_folder / "test").rename(image_folder / split)
    for path in (image_folder / split).rglob("*.png"):
        path.rename(image_folder / split / f"{path.parent.name}-{path.name}")
    with pytest.raises(UserError, match=f"no image of the {split} split has a label"):
        evaluate(_model(), _data(image_folder))


class Thumbnail(torch.nn.Module):
    """An encoder that knows colours and places only, without a weight."""

    pretrained_cfg: ClassVar = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


def test_nuisances_are_probed_where_they_are_known() -> None:
    data = SyntheticDataModule(
        train_size=600, test_size=200, image_size=32, num_workers=0, batch_size=40
    )
    metrics = evaluate(Thumbnail(), data).metrics
    names = {f"nuisance-{name}" for name in NUISANCES}
    assert {name for name in metrics if name.startswith("nuisance-")} == names
    assert metrics["nuisance"] == pytest.approx(np.mean([metrics[name] for name in names]))
    assert metrics["nuisance-background_hue"] > 0.3
    assert metrics["nuisance-background_value"] > 0.3
    assert abs(metrics["nuisance-light_angle"]) < 0.1
    assert abs(metrics["nuisance-head_pitch"]) < 0.1
