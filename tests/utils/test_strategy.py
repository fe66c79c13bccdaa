"""Precisions and strategies that are refused, what DDP broadcasts, and batch norm over all processes."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ppssl import PPSSL, FineTune, FolderDataModule, LinearProbe, UserError
from ppssl.losses.contrastive import MoCo
from ppssl.utils.strategy import SyncBatchNorm, check_precision, check_strategy, prepare

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}


def _model() -> PPSSL:
    torch.manual_seed(0)
    model = PPSSL(**TINY, contrastive=MoCo(dim=8, queue_size=10), lr=0.05)
    model.build(20)
    return model


def _trainer(strategy: Any) -> Any:
    options = {"max_epochs": 1, "max_steps": -1, "precision": "32-true", "callbacks": []}
    state = SimpleNamespace(fn="fit")
    return SimpleNamespace(strategy=strategy, datamodule=None, state=state, **options)


def _with(strategy: Any) -> PPSSL:
    model = _model()
    trainer = _trainer(strategy)
    trainer.fit_loop = SimpleNamespace(setup_data=lambda: None)
    trainer.train_dataloader = SimpleNamespace(dataset=range(20))
    model._trainer = trainer
    return model


def _classifier_with(strategy: Any) -> FineTune:
    model = FineTune(**TINY, num_classes=3)
    trainer = _trainer(strategy)
    model._trainer = trainer
    return model


@pytest.mark.parametrize("kind", [FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy])
def test_shared_out_parameters_are_refused_in_setup(kind: Any) -> None:
    strategy = kind.__new__(kind)  # DeepSpeed's own constructor asks for its package
    name = kind.__name__.removesuffix("Strategy")
    with pytest.raises(UserError, match=rf"`trainer.strategy` {name} is not supported: .* `ddp`"):
        _with(strategy).setup("fit")


HALF = "is not supported: half-precision weights .* momentum update of 0.001. Use"


@pytest.mark.parametrize("model", [PPSSL, FineTune, LinearProbe])
@pytest.mark.parametrize(
    ("precision", "reason"),
    [
        ("bf16-true", f"{HALF} `bf16-mixed` or `32-true`"),
        ("16-true", f"{HALF} `16-mixed` or `32-true`"),
        ("64-true", "is not supported: .* Use `bf16-mixed` or `32-true`"),
    ],
)
def test_weights_in_other_types_are_refused(
    model: Any, precision: Any, reason: str, image_folder: Path, tmp_path: Path
) -> None:
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    trainer = Trainer(
        accelerator="cpu", precision=precision, logger=False, default_root_dir=tmp_path
    )
    for run in (trainer.fit, trainer.validate):
        with pytest.raises(UserError, match=f"`trainer.precision` {precision} {reason}"):
            run(model(**TINY), data)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_weights_in_float32_are_not(precision: Any) -> None:
    trainer: Any = SimpleNamespace(precision=precision)
    check_precision(trainer)


@pytest.mark.parametrize("strategy", [DDPStrategy(), SingleDeviceStrategy(torch.device("cpu"))])
def test_others_are_not(strategy: Any) -> None:
    check_strategy(strategy)
    _with(strategy).setup("fit")


def test_ddp_broadcasts_the_statistics_of_batch_norm_alone() -> None:
    """The queue, by far the largest state, is equal in all processes without it."""
    model = _with(DDPStrategy())
    model.setup("fit")
    names = {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    assert names == {"running_mean", "running_var", "num_batches_tracked"}
    assert "contrastive.queue.keys" in model.state_dict()


def test_synchronised_batch_norm_keeps_the_activations() -> None:
    """Without a process group it is batch norm: what comes out must not change, there and back."""
    images = torch.randn(6, 3, 32, 32)
    plain = _model()
    expected, key = plain.encoder(images), plain.contrastive.key_encoder(images)
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    lost: Any = TorchSyncBatchNorm().apply(copy.deepcopy(plain))
    assert not torch.allclose(lost.encoder(images), expected)  # why there is one of our own

    sync = SyncBatchNorm()
    model: Any = sync.apply(_model())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    torch.testing.assert_close(model.encoder(images), expected)
    torch.testing.assert_close(model.contrastive.key_encoder(images), key)
    model.contrastive.after_step(
        model.encoder, progress=0.5, total_steps=10
    )  # the pairs are still pairs
    back: Any = sync.revert(model)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in back.modules())
    assert back.state_dict().keys() == state.keys()
    for name, value in back.state_dict().items():  # the statistics went along, too
        torch.testing.assert_close(value, state[name], msg=name)
    model, back = plain.eval(), back.eval()
    torch.testing.assert_close(back.encoder(images), model.encoder(images))


def test_a_classifier_and_its_moving_average_are_converted_alike() -> None:
    """Lightning copies the model for the average first, and synchronises after that."""
    images = torch.randn(6, 3, 32, 32)
    model = FineTune(**TINY, num_classes=3, ema_decay=0.5)
    nn.init.normal_(model.head.weight)
    expected, frozen = model(images), model.frozen_embedding(images)
    average = AveragedModel(model, use_buffers=True)
    sync: Any = SyncBatchNorm().apply(copy.deepcopy(model))
    norms = [m for m in sync.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    sync.load_state_dict(model.state_dict())
    torch.testing.assert_close(sync(images), expected)
    for parameter in sync.parameters():
        parameter.data.add_(1)
    average.update_parameters(sync)  # the first one copies
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, sync.state_dict()[name], msg=name)
    back: Any = SyncBatchNorm().revert(sync)
    back.load_state_dict(model.state_dict())
    torch.testing.assert_close(back.frozen_embedding(images), frozen)


@pytest.mark.parametrize("model", [_with, _classifier_with])
def test_lightnings_option_uses_it(model: Any) -> None:
    strategy = DDPStrategy(parallel_devices=[torch.device("cuda", 0)])
    strategy._layer_sync = TorchSyncBatchNorm()
    prepare(model(strategy))
    assert type(strategy._layer_sync) is SyncBatchNorm
    prepare(model(strategy))  # a second call changes nothing


def test_synchronised_batch_norm_over_processes_needs_gpus() -> None:
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")] * 2)
    strategy._layer_sync = TorchSyncBatchNorm()
    with pytest.raises(UserError, match=r"`trainer\.sync_batchnorm` needs GPUs"):
        prepare(_with(strategy))


@pytest.mark.parametrize("model", [PPSSL, FineTune, LinearProbe])
def test_one_process_on_the_cpu_takes_the_option(
    model: Any, image_folder: Path, tmp_path: Path
) -> None:
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=6, num_workers=0, seed=0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        sync_batchnorm=True,
        max_steps=1,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **quiet,
    )
    trainer.fit(model(**TINY), data)
    assert trainer.global_step == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sync", [False, True])
def test_on_a_gpu(sync: bool, image_folder: Path, tmp_path: Path) -> None:
    """One process with NCCL: synchronised or not, statistics are those of the same images."""
    model = _model()
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0, seed=0)
    trainer = Trainer(
        accelerator="gpu",
        devices=1,
        strategy="ddp",
        sync_batchnorm=sync,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, data)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
