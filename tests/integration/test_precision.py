"""Half precision: finite, close to float32, and float32 where the docstrings promise it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from ppssl import AIS, IADM, PPSSL, FolderDataModule, LossPlugin, LossTerm, TrainingStep
from ppssl.losses.contrastive import MoCo

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
PROMISED = {"z", "key", "contrastive_loss"}


class Look(LossPlugin):
    """Keeps the types of what plugins are given; adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, torch.dtype] = {}

    def forward(self, step: TrainingStep) -> LossTerm:
        self.types = {name: getattr(step, name).dtype for name in PROMISED}
        self.types["embedding"] = step.embedding.dtype
        return LossTerm(0 * step.contrastive_loss)

    def weight(self, progress: float) -> float:
        return 0.0


class Losses(Callback):
    def __init__(self) -> None:
        self.all: list[Tensor] = []
        self.logged: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *args: Any) -> None:
        self.all.append(outputs["loss"].detach().cpu())
        self.logged = dict(trainer.callback_metrics)


def _model() -> PPSSL:
    torch.manual_seed(0)
    ais = AIS("synthetic-birds", teacher="synthetic-clip")
    iadm = IADM(loss_weight=1.0, start=0.0, full=0.0, debias=True, use="both", every=1)
    moco = MoCo(dim=8, queue_size=10)
    plugins = {"ais": ais, "iadm": iadm, "look": Look()}
    return PPSSL(**TINY, contrastive=moco, lr=0.002, plugins=plugins)


def _fit(images: Path, out: Path, precision: Any, **where: Any) -> tuple[PPSSL, Losses, Trainer]:
    model, losses = _model(), Losses()
    data = FolderDataModule(
        str(images), image_size=32, batch_size=8, num_workers=0, val_fraction=0.25, seed=0
    )
    trainer = Trainer(
        **{"accelerator": "cpu"} | where,
        precision=precision,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=out,
        callbacks=[losses],
    )
    trainer.fit(model, data)
    return model, losses, trainer


def _assert_as_in_float32(model: PPSSL, losses: Losses, half: torch.dtype, exact: Losses) -> None:
    types = model.plugins["look"].types
    assert types.pop("embedding") == half  # half precision was at work
    assert set(types.values()) == {torch.float32}
    assert {v.dtype for v in model.state_dict().values() if v.is_floating_point()} == {
        torch.float32
    }
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert all(value.isfinite() for value in losses.logged.values())
    torch.testing.assert_close(losses.all, exact.all, rtol=0.01, atol=0)
    norms = model.contrastive.queue.keys.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-5, atol=0)


def test_bf16_on_the_cpu(image_folder: Path, tmp_path: Path) -> None:
    _, exact, _ = _fit(image_folder, tmp_path, "32-true")
    model, losses, trainer = _fit(image_folder, tmp_path, "bf16-mixed")
    assert len(losses.all) == 6
    assert trainer.callback_metrics["val/retrieval_map"] > 0
    _assert_as_in_float32(model, losses, torch.bfloat16, exact)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_all_losses_under_bare_autocast(half: torch.dtype, image_folder: Path) -> None:
    """Without a Trainer, no loss scaling: losses, and the gradients of those parts that fp16 can hold."""
    totals, logs, gradients = [], [], []
    for dtype in (torch.float32, half):
        torch.manual_seed(0)
        iadm = IADM(loss_weight=1.0, start=0.0, full=0.0, use="both", every=1)
        moco = MoCo(dim=8, queue_size=10, prefill="random")
        model = PPSSL(**TINY, contrastive=moco, plugins={"iadm": iadm})
        model.build(20)
        generator = torch.Generator().manual_seed(1)
        views = [torch.randn(8, 3, 32, 32, generator=generator) for _ in range(2)]
        batch = {"views": views, "index": torch.arange(8)}
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            total, logged = model.losses(batch, seed=0, progress=1.0)
        assert total.dtype == torch.float32
        total.backward()
        totals.append(total.detach())
        logs.append(logged)
        gradients.append(model.contrastive.head[0].weight.grad)
    exact, found = (logged["loss_contrastive"] for logged in logs)
    tolerance = 0.0005 if half == torch.float16 else 0.002  # 11 and 8 bits, of the encoder alone
    torch.testing.assert_close(found, exact, rtol=tolerance, atol=0)
    torch.testing.assert_close(totals[1], totals[0], rtol=0.02, atol=0)  # rectified maps: coarser
    for name, value in logs[0].items():
        torch.testing.assert_close(logs[1][name].float(), value, rtol=0.02, atol=0.01, msg=name)
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert error < (0.01 if half == torch.float16 else 0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="16-mixed needs a GPU")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_on_a_gpu(precision: str, image_folder: Path, tmp_path: Path) -> None:
    where = {"accelerator": "gpu", "devices": 1}
    _, exact, _ = _fit(image_folder, tmp_path, "32-true", **where)
    model, losses, _ = _fit(image_folder, tmp_path, precision, **where)
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    _assert_as_in_float32(model, losses, half, exact)
