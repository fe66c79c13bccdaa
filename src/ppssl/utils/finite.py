"""Numbers that are not finite stop a run, and say where they came from: every step can be replayed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ppssl.utils.errors import UserError

__all__ = ["check_loss", "check_parameters"]


def check_loss(
    loss: Tensor, terms: Mapping[str, Tensor], index: Tensor, *, step: int, epoch: int
) -> None:
    """Stop at a loss that is NaN or infinite.

    Args:
        loss: The total, a scalar.
        terms: What it is the sum of, by name, scalars or of each sample ``(B,)``.
        index: The images' numbers ``(B,)``: with epoch and seed they give the views again.
        step: The global step, which with the seed gives the step's noise again.
        epoch: The epoch.

    Raises:
        UserError: It is not finite; with the step, the terms and the images.
    """
    if torch.isfinite(loss):
        return
    bad = {name: int((~torch.isfinite(term)).sum()) for name, term in terms.items()}
    named = ", ".join(
        f"`{name}` ({count} of {terms[name].numel()} values)"
        for name, count in bad.items()
        if count
    )
    raise UserError(
        f"The loss is {loss.item()} at step {step}, epoch {epoch}: not finite is {named or 'the sum'}. The batch "
        f"was images {index.tolist()}. Nothing of this step is kept; the last checkpoint is from before it. A lower "
        "learning rate, a warm-up or `trainer.gradient_clip_val` are the usual remedies."
    )


def check_parameters(module: nn.Module, step: int) -> None:
    """Stop where a weight or buffer is NaN or infinite, before it gets into a checkpoint.

    Raises:
        UserError: With the step and the first such tensor's name.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                f"`{name}` is not finite after step {step}: no checkpoint is written, the last one is from before it. "
                "A lower learning rate, a warm-up or `trainer.gradient_clip_val` are the usual remedies."
            )
