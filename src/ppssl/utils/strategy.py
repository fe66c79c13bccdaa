"""What training in several processes asks of the Trainer's strategy."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)
from timm.layers import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ppssl.utils.errors import UserError

__all__ = ["SyncBatchNorm", "check_strategy", "prepare"]


def prepare(model: LightningModule, *, not_broadcast: Iterable[str] = ()) -> None:
    """Make a built model and its Trainer's strategy ready for several processes.

    Args:
        model: The model, with its Trainer.
        not_broadcast: Names of buffers that DDP leaves alone, because every process has the same without it.

    Raises:
        UserError: See :func:`check_strategy`; or ``trainer.sync_batchnorm`` over processes without GPUs.
    """
    strategy = model.trainer.strategy
    check_strategy(strategy)
    if type(getattr(strategy, "_layer_sync", None)) is TorchSyncBatchNorm:
        if strategy.root_device.type == "cpu":
            raise UserError(
                "`trainer.sync_batchnorm` needs GPUs: PyTorch's synchronised batch norm has no version for the CPU."
            )
        strategy._layer_sync = SyncBatchNorm()  # type: ignore[attr-defined]  # of ParallelStrategy
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, set(not_broadcast))


def check_strategy(strategy: Strategy) -> None:
    """Raise :class:`UserError` for strategies that give each process a part of the parameters only."""
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        name = type(strategy).__name__.removesuffix("Strategy")
        raise UserError(
            f"`trainer.strategy` {name} is not supported: it shares the parameters out over the processes, and the "
            "momentum encoder follows them one by one, the GradCAM of the image needs a second backward pass through "
            "them, and a checkpoint must hold them whole. Use `ddp`."
        )


class SyncBatchNorm(TorchSyncBatchNorm):
    """``trainer.sync_batchnorm`` for timm's encoders.

    Some of timm's layers are batch norm and activation in one; torch's conversion, which Lightning calls, would
    silently leave out the activation.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace all batch norms, of the momentum encoder too."""
        return convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Put back layers that need no other process."""
        for path, layer in list(model.named_modules()):
            if isinstance(layer, SyncBatchNormAct):
                plain: Any = BatchNormAct2d(layer.num_features)
                for name in ("eps", "momentum", "affine", "track_running_stats", "training"):
                    setattr(plain, name, getattr(layer, name))
                plain._parameters, plain._buffers = layer._parameters, layer._buffers
                plain.act, plain.drop = layer.act, layer.drop
                model.set_submodule(path, plain)
        return super().revert(model)
