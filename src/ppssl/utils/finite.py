"""Checks for losses and weights that are not finite, without a read by the host in every step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ppssl.utils.errors import UserError

__all__ = ["LossHistory", "LossOfStep", "check_parameters"]

_LIMIT = 1000
"""Steps after which a history is checked in any case."""

_REMEDY = "A lower learning rate, a warm-up or `trainer.gradient_clip_val` are the usual remedies."


class LossOfStep(NamedTuple):
    """The loss of one step, as :meth:`LossHistory.add` was given it."""

    loss: Tensor
    terms: dict[str, Tensor]
    images: Tensor
    step: int
    epoch: int


@dataclass
class LossHistory:
    """Losses since the last check, on their device: a check reads them all at once.

    Attributes:
        record: Called with a step whose loss is not finite; what it returns ends the error message.
    """

    record: Callable[[LossOfStep], str] | None = None
    _steps: list[LossOfStep] = field(default_factory=list)

    def add(
        self,
        loss: Tensor,
        terms: Mapping[str, Tensor],
        index: Tensor,
        *,
        step: int,
        epoch: int,
    ) -> None:
        """Keep the loss of one step until the next check.

        Args:
            loss: The total, a scalar.
            terms: The terms that it is the sum of, by name, scalars or of each sample ``(B,)``.
            index: The numbers of the images ``(B,)``: with epoch and seed they reproduce the views.
            step: The global step, which with the seed reproduces the random numbers of the step.
            epoch: The epoch.
        """
        detached = {name: term.detach() for name, term in terms.items()}
        self._steps.append(LossOfStep(loss.detach(), detached, index, step, epoch))
        if len(self._steps) >= _LIMIT:
            self.check()

    def check(self) -> None:
        """Raise an error if a loss since the last check is NaN or infinite; the first one is named.

        Raises:
            UserError: With the step, the epoch, the terms and the images.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        finite = torch.stack([step.loss for step in steps]).isfinite().tolist()
        if not all(finite):
            step = steps[finite.index(False)]
            recorded = "" if self.record is None else self.record(step)
            raise UserError(f"{_message(step)} {recorded}".rstrip())

    def pop(self) -> LossOfStep:
        """Remove the last step that was added, and return it."""
        return self._steps.pop()


def _message(step: LossOfStep) -> str:
    bad = {name: int((~term.isfinite()).sum()) for name, term in step.terms.items()}
    named = ", ".join(
        f"`{name}` ({count} of {step.terms[name].numel()} values)"
        for name, count in bad.items()
        if count
    )
    return (
        f"The loss is {step.loss.item()} at step {step.step}, epoch {step.epoch}: not finite is {named or 'the sum'}. "
        f"The batch was images {step.images.tolist()}. The last checkpoint is from before this step. {_REMEDY}"
    )


def check_parameters(module: nn.Module, step: int) -> None:
    """Raise an error if a weight or buffer is NaN or infinite, before it is saved in a checkpoint.

    Raises:
        UserError: With the step and the name of the first such tensor.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                f"`{name}` is not finite after step {step}: no checkpoint is written, the last one is from before it. "
                f"{_REMEDY}"
            )
