"""The anchor to the starting encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from ppssl import PPSSL, Anchor, EncoderInfo, FolderDataModule, MoCo, UserError


def _model(**kwargs: Any) -> PPSSL:
    torch.manual_seed(0)
    options: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    options |= {"contrastive": MoCo(dim=8), "batch_norm": "frozen", "lr": 0.1}
    return PPSSL(**options | kwargs)


def _batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(6, 3, 16, 16, generator=generator) for _ in range(2)]
    return {"views": views, "index": torch.arange(6)}


def _fit(model: PPSSL, images: Path, folder: Path, **kwargs: Any) -> Trainer:
    data = FolderDataModule(str(images), image_size=32, batch_size=8, num_workers=0)
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=2,
        log_every_n_steps=1,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )
    trainer.fit(model, data)
    return trainer


def test_it_is_one_minus_the_cosine_to_the_starting_encoder() -> None:
    model, batch = _model(plugins={"anchor": Anchor(2.0)}), _batch()
    model.build(20)
    model.train()
    loss, logs = model.losses(batch, seed=0, progress=0.0)
    assert logs["loss_anchor"].item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        start = model.encoder(batch["views"][0]).numpy().astype(float)
        for parameter in model.encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        now = model.encoder(batch["views"][0]).numpy().astype(float)
    loss, logs = model.losses(batch, seed=0, progress=0.0)
    cosine = (now * start).sum(1) / ((now**2).sum(1) * (start**2).sum(1)) ** 0.5
    assert logs["loss_anchor"].item() == pytest.approx((1 - cosine).mean(), abs=1e-5)
    assert logs["loss_anchor"] > 1e-3
    assert loss.item() == pytest.approx(
        logs["loss_contrastive"].item() + 2 * logs["loss_anchor"].item(), abs=1e-5
    )


def test_the_gradient_reaches_the_encoder_and_not_its_copy() -> None:
    model = _model(plugins={"anchor": Anchor()})
    model.build(20)
    plugin: Any = model.plugins["anchor"]
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    loss, _ = model.losses(_batch(), seed=0, progress=0.0)
    loss.backward()
    assert all(p.grad is None for p in plugin.start.parameters())
    assert not any(p.requires_grad for p in plugin.start.parameters())
    model.train()
    assert not plugin.start.training


def test_it_holds_the_encoder_back(image_folder: Path, tmp_path: Path) -> None:
    images, drift = torch.randn(8, 3, 32, 32), {}
    for weight in (0.0, 30.0):
        model = _model(plugins={"anchor": Anchor(weight)}, optimizer="adamw", lr=1e-3)
        before = model.encoder(images).detach()
        _fit(model, image_folder, tmp_path / str(weight), enable_checkpointing=False)
        after = model.encoder(images).detach()
        drift[weight] = 1 - torch.cosine_similarity(before, after).mean()
    assert drift[30.0] < drift[0.0] / 3


def test_a_checkpoint_keeps_the_starting_encoder(image_folder: Path, tmp_path: Path) -> None:
    model = _model(plugins={"anchor": Anchor()})
    start = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    trainer = _fit(model, image_folder, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again: Any = PPSSL.load_from_checkpoint(tmp_path / "last.ckpt")
    saved = again.plugins["anchor"].start.state_dict()
    assert all(saved[name].equal(value) for name, value in start.items())
    trained = again.encoder.state_dict()
    assert not all(trained[name].equal(value) for name, value in start.items())


def test_errors() -> None:
    with pytest.raises(ValueError, match="`loss_weight` must be >= 0, got -1"):
        Anchor(-1.0)
    with pytest.raises(UserError, match="`Anchor` needs the encoder itself"):
        Anchor().build(EncoderInfo(dim=4, channels=4, mean=(0.0,), std=(1.0,)))
