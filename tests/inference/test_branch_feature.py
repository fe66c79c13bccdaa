"""The feature ``branch``: the encoder's feature map pooled with IADM's attention map."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer

from ppssl import IADM, PPSSL, FolderDataModule, UserError, embed, neighbours
from ppssl.evaluation.evaluate import compute_metrics, evaluate
from ppssl.inference.embedding_file import read_description
from ppssl.inference.embeddings import embed_loader, feature_encoder, has_branch_feature
from ppssl.losses.contrastive import MoCo
from ppssl.utils.results import unpack_bits


def _data(images: Path) -> FolderDataModule:
    return FolderDataModule(str(images), image_size=32, batch_size=5, num_workers=0)


def _model(**plugins: Any) -> PPSSL:
    """Small, and with a branch that does not attend to all places alike."""
    torch.manual_seed(0)
    model = PPSSL(
        backbone="resnet_small",
        backbone_kwargs={"width": 4},
        contrastive=MoCo(dim=8, queue_size=16, prefill="random"),
        plugins=plugins,
    )
    model.build(24)
    for plugin in plugins.values():
        plugin.branch.log_temperature.data -= 2
    return model.eval()


def _pooled_by_loops(model: PPSSL, images: torch.Tensor, plugin: IADM) -> torch.Tensor:
    """``sum over cells of A * F``: place (y, x) of F has the u x u cells of A that lie in it."""
    feature_map = model.encoder.features(images).map.double()
    attention, u = plugin.branch(feature_map.float()).exp().double(), plugin.upscale
    out = torch.zeros(feature_map.shape[:2], dtype=torch.float64)
    for b in range(len(images)):
        for i in range(attention.shape[1]):
            for j in range(attention.shape[2]):
                out[b] += attention[b, i, j] * feature_map[b, :, i // u, j // u]
    return out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model whose IADM predicts 2 x 2 cells a place."""
    path = tmp_path_factory.mktemp("branch") / "iadm.ckpt"
    model, trainer = _model(iadm=IADM(upscale=2)), Trainer(logger=False, accelerator="cpu")
    model.trainer = trainer
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


@torch.no_grad()
def test_branch_features_are_the_map_pooled_with_a(checkpoint: Path) -> None:
    images = torch.randn(3, 3, 32, 32)
    model = PPSSL.load_from_checkpoint(checkpoint).eval()
    plugin: Any = model.plugins["iadm"]
    expected = _pooled_by_loops(model, images, plugin).float()
    for given in (checkpoint, str(checkpoint), model):
        encoder = feature_encoder(given, "branch").eval()
        torch.testing.assert_close(encoder(images), expected)
        assert encoder.pretrained_cfg == model.encoder.model.pretrained_cfg
        own = feature_encoder(given).eval()
        torch.testing.assert_close(own(images), model(images))
        torch.testing.assert_close(own(images), model.encoder.features(images).map.mean(dim=(2, 3)))
    assert (expected - model(images)).abs().max() > 0.01


@torch.no_grad()
def test_an_image_has_the_same_branch_feature_in_any_batch(checkpoint: Path) -> None:
    images, encoder = torch.randn(5, 3, 32, 32), feature_encoder(checkpoint, "branch").eval()
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(encoder(images), alone)


def test_the_first_plugin_that_attends_is_taken() -> None:
    model = _model(one=IADM(hidden=4), two=IADM(hidden=8))
    assert feature_encoder(model, "branch").plugin is model.plugins["one"]


def test_evaluate_measures_the_branch_features(checkpoint: Path, image_folder: Path) -> None:
    data = _data(image_folder)
    own = evaluate(checkpoint, data)
    results = evaluate(checkpoint, data, feature="branch")
    encoder = feature_encoder(checkpoint, "branch")
    gallery, queries = (embed_loader(encoder, loader, data) for loader in data.test_dataloader())
    measured = compute_metrics(gallery, queries, seed=0)
    metrics = measured.metrics
    assert results.metrics == pytest.approx(metrics)
    assert results.metrics["mAP"] != own.metrics["mAP"]
    assert (unpack_bits(results.per_image["linear"]) == measured.hits["linear"]).all()
    assert results.config["feature"] == "branch"
    assert set(own.config) == {"model", "data"}  # as in results that are older than this choice
    model = PPSSL.load_from_checkpoint(checkpoint).train()
    assert evaluate(model, data, feature="branch").metrics == pytest.approx(metrics)
    assert model.training
    assert model.plugins["iadm"].training


def test_branch_embeddings_in_a_file_know_what_they_are(
    checkpoint: Path, image_folder: Path, tmp_path: Path
) -> None:
    own, branch = tmp_path / "own.parquet", tmp_path / "branch.parquet"
    embed(checkpoint, _data(image_folder), own)
    embed(checkpoint, _data(image_folder), branch, feature="branch")
    assert (read_description(own).feature, read_description(branch).feature) == ("gap", "branch")
    data = _data(image_folder)
    data.setup()
    expected = embed_loader(feature_encoder(checkpoint, "branch"), data.eval_loader("test"), data)
    found = torch.tensor(pq.read_table(branch)["embedding"].to_pylist()[24:])
    torch.testing.assert_close(found, expected.features)
    query = image_folder / "test" / "class1" / "2.png"
    for file in (own, branch):  # the image finds itself only by the features that are in the file
        assert neighbours(query, file, checkpoint, k=1)[0].similarity == pytest.approx(1)
        assert neighbours(query, file, checkpoint, k=1)[0].path == str(query)
    with pytest.raises(UserError, match="this Encoder was trained without IADM"):
        neighbours(query, branch, PPSSL.load_from_checkpoint(checkpoint).encoder)


def test_files_from_before_the_choice_are_read(
    checkpoint: Path, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.parquet"
    embed(checkpoint, _data(image_folder), out)
    table = pq.read_table(out)
    described = json.loads(table.schema.metadata[b"ppssl"])
    del described["feature"]
    pq.write_table(table.replace_schema_metadata({b"ppssl": json.dumps(described)}), out)
    assert read_description(out).feature == "gap"


def test_without_a_branch_it_says_what_to_do(image_folder: Path) -> None:
    assert has_branch_feature(_model(iadm=IADM()))
    assert not has_branch_feature(_model())
    for model in (_model(), _model().encoder, _model().encoder.model):
        with pytest.raises(UserError, match="was trained without IADM: give a checkpoint that was"):
            evaluate(model, _data(image_folder), feature="branch")
    with pytest.raises(UserError, match="IADM attends to nothing before it is trained"):
        evaluate(
            PPSSL(backbone="resnet_small", plugins={"iadm": IADM()}),
            _data(image_folder),
            feature="branch",
        )
    with pytest.raises(ValueError, match="`feature` must be 'gap' or 'branch', got 'mean'"):
        feature_encoder(_model(), "mean")  # type: ignore[arg-type]
