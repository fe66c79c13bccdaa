"""What a model needs of its Trainer: options, precision, strategy, broadcasts, synchronised batch norm, a compiler."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)
from timm.layers import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import nn

from ppssl.utils.checks import check_range
from ppssl.utils.compiler import prepare_compiler
from ppssl.utils.errors import UserError
from ppssl.utils.lightning_internals import replace_sync_batchnorm

__all__ = ["SyncBatchNorm", "check_precision", "check_strategy", "check_trainer", "prepare"]

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
_OPTION_RANGES = {
    "accumulate_grad_batches": ">= 1",
    "check_val_every_n_epoch": ">= 1",
    "gradient_clip_val": ">= 0",
    "log_every_n_steps": ">= 0",
    "num_sanity_val_steps": ">= 0",
    "val_check_interval": "> 0",
}
"""Options of the Trainer that Lightning does not check; 0 in place of 1 would divide by zero in mid-run."""

_BATCH_NORM_STATE = (
    *("eps", "momentum", "affine", "track_running_stats", "training"),
    *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    *("act", "drop"),
)


def prepare(model: LightningModule) -> None:
    """Prepare a model and its Trainer's strategy for several processes, and for a compiled encoder if it is trained.

    Args:
        model: The model with all its layers, attached to its Trainer.

    Raises:
        UserError: See :func:`check_strategy` and :func:`~ppssl.utils.compiler.prepare_compiler`; or
            ``trainer.sync_batchnorm`` over processes without GPUs.
    """
    strategy = model.trainer.strategy
    check_strategy(strategy)
    synchronised = replace_sync_batchnorm(strategy, SyncBatchNorm())
    if synchronised and strategy.root_device.type == "cpu":
        raise UserError(
            "`trainer.sync_batchnorm` needs GPUs: PyTorch's synchronised batch norm has no version for the CPU."
        )
    if model.trainer.state.fn == "fit" and getattr(model, "compile_encoder", False):
        prepare_compiler("model.compile_encoder", strategy.root_device)


def check_trainer(trainer: Trainer) -> None:
    """Refuse options of a Trainer under which no model can be trained or validated.

    Raises:
        ArgumentError: A number is out of range.
        UserError: The length of the training is unknown, or see :func:`check_precision`.
    """
    for name, range_ in _OPTION_RANGES.items():
        value = getattr(trainer, name, None)
        if isinstance(value, int | float):
            check_range(range_, **{f"trainer.{name}": value})
    if trainer.state.fn == "fit" and trainer.max_epochs == trainer.max_steps == -1:
        raise UserError(
            "`trainer.max_epochs` -1 is not supported without `trainer.max_steps`: the schedule follows the length of "
            "the run. Set one of the two; `trainer.max_time` may end the run earlier."
        )
    check_precision(trainer)


def check_precision(trainer: Trainer) -> None:
    """Refuse weights that are not float32.

    Raises:
        UserError: The precision is neither float32 nor mixed.
    """
    precision = str(trainer.precision)
    if precision in PRECISIONS:
        return
    reason = "images are normalised in float32"
    if precision in ("16-true", "bf16-true"):
        reason = (
            "half-precision weights round small updates away, such as a momentum update of 0.001"
        )
    mixed = "16-mixed" if precision == "16-true" else "bf16-mixed"
    raise UserError(
        f"`trainer.precision` {precision} is not supported: {reason}. Use `{mixed}` or `32-true`."
    )


def check_strategy(strategy: Strategy) -> None:
    """Refuse strategies that shard the parameters over the processes.

    Raises:
        UserError: FSDP, DeepSpeed or model parallelism.
    """
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        name = type(strategy).__name__.removesuffix("Strategy")
        raise UserError(
            f"`trainer.strategy` {name} is not supported: it shards the parameters over the processes, but the "
            "momentum update, the second backward pass of the GradCAM of the image, and checkpoints need them whole. "
            "Use `ddp`."
        )


class SyncBatchNorm(TorchSyncBatchNorm):
    """Synchronised batch norm for timm's encoders, in place of torch's conversion.

    Some of timm's layers are batch norm and activation in one; torch's conversion, which Lightning calls, silently
    drops the activation.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise all batch norms, those of the momentum encoder included."""
        return convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Put ordinary batch norms back."""
        for path, layer in list(model.named_modules()):
            if isinstance(layer, SyncBatchNormAct):
                plain = BatchNormAct2d(layer.num_features)
                for name in _BATCH_NORM_STATE:
                    setattr(plain, name, getattr(layer, name))
                model.set_submodule(path, plain)
        return super().revert(model)
