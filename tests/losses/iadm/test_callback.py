from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from ppssl import IADM, PPSSL, SyntheticDataModule
from ppssl.callbacks.example_images import example_batch
from ppssl.functional import image_gradcam
from ppssl.losses.contrastive import MoCo
from ppssl.losses.iadm.callback import IADMCallback, probe_maps
from ppssl.losses.iadm.output_gradcam import output_gradcam


def _data() -> SyntheticDataModule:
    return SyntheticDataModule(
        train_size=40,
        test_size=20,
        num_classes=4,
        render_size=32,
        image_size=32,
        batch_size=8,
        num_workers=0,
    )


def _model(**kwargs: Any) -> PPSSL:
    torch.manual_seed(0)
    plugin = IADM(start=0.0, full=0.0, **kwargs)
    small = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}, "lr": 0.05}
    return PPSSL(**small, contrastive=MoCo(dim=8), plugins={"iadm": plugin})


def _fit(folder: Path, model: PPSSL, **kwargs: Any) -> Trainer:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        logger=CSVLogger(folder),
        **quiet,
        **kwargs,
    )
    trainer.fit(model, _data())
    return trainer


def test_health_is_logged_and_panels_are_drawn(tmp_path: Path) -> None:
    model = _model(upscale=2)
    trainer = _fit(
        tmp_path, model, callbacks=[IADMCallback(every_n_epochs=2, num_images=2, num_probes=6)]
    )
    names = ("entropy", "kl_uniform", "skill", "correlation", "energy", "energy_chance", "pointing")
    health = {name: trainer.callback_metrics[f"train/iadm_health_{name}"].item() for name in names}
    assert 0 < health["entropy"] <= 1
    assert 0.05 < health["energy_chance"] < 0.9  # birds fill some of the picture
    chance = trainer.callback_metrics["train/iadm_health_part_energy_chance"].item()
    assert 0 < chance < health["energy_chance"]  # parts are some of the bird
    (panel,) = tmp_path.rglob("iadm-saliency-*.png")
    assert np.asarray(Image.open(panel).convert("L")).std() > 10
    assert model.training


def test_watching_changes_nothing(tmp_path: Path) -> None:
    states = []
    for every in (0, 1):
        model = _model()
        _fit(
            tmp_path / str(every),
            model,
            callbacks=[IADMCallback(every_n_epochs=every, num_images=2)],
        )
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert states[1][name].equal(value), name


def test_maps_of_probes(tmp_path: Path) -> None:
    model = _model()
    trainer = _fit(tmp_path, model)
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
    model.eval()
    batch = example_batch(data, 3)
    assert batch["index"].tolist() == [0, 20, 39]
    maps = probe_maps(model, model.plugins["iadm"], data, batch)
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "image GradCAM": (3, 32, 32),
        "A*": (3, 4, 4),
        "branch": (3, 4, 4),
        "output Grad-CAM": (3, 32, 32),
    }
    assert all(p.grad is None or not p.grad.requires_grad for p in model.parameters())
    x = data.normalise(batch["image"])
    with torch.no_grad():
        wanted = model.encoder(
            x.flip(3)
        )  # its mirrored copy: of the image itself there is no gradient
    expected = output_gradcam(
        model.encoder,
        lambda images: torch.nn.functional.cosine_similarity(model.encoder(images), wanted, dim=1),
        x,
    )
    torch.testing.assert_close(maps["output Grad-CAM"], expected)
    key = model.contrastive.keys(x.flip(3), torch.arange(len(x)), seed=0)[0]
    raw = image_gradcam(
        lambda images: (
            torch.nn.functional.normalize(model.contrastive.head(model.encoder(images)), dim=1)
            * key
        ).sum(dim=1),
        x,
        "blur",
    )
    torch.testing.assert_close(maps["image GradCAM"], raw, atol=1e-5, rtol=1e-3)
    again = probe_maps(model, model.plugins["iadm"], data, batch)
    for name, values in maps.items():
        torch.testing.assert_close(again[name], values)


def test_arguments() -> None:
    with pytest.raises(ValueError, match="`num_probes` must be >= 1"):
        IADMCallback(num_probes=0)
