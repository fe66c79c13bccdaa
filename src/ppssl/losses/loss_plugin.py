"""Loss plugins: the base class, and the training step that they are given.

A plugin adds one term to the loss. It is an ``nn.Module``, so its parameters are trained, moved and checkpointed with
the model. ``PPSSL(plugins={"name": plugin})`` registers it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ppssl.utils.argument_types import kind_of
from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from ppssl.encoder import EncoderInfo
    from ppssl.losses.contrastive import ContrastiveResult

__all__ = [
    "LossPlugin",
    "LossTerm",
    "TrainingStep",
    "check_dim",
    "numbered_images",
    "training_step",
    "weighted_sum",
]


@dataclass(frozen=True)
class TrainingStep:
    """State of a training step after the contrastive loss, the input of every plugin.

    All attributes but ``batch`` are of the two global views, also if the batch has more: the term of a plugin does not
    change with them, unless the plugin says that it looks at ``batch["views"][2:]`` itself.

    Attributes:
        batch: The batch (:class:`~ppssl.data.datamodule.FineGrainedDataModule`), with what the plugin requested.
        image: x_q, the query's view, ``(B, 3, H, W)``; its gradient can be asked for in the steps that
            :meth:`LossPlugin.needs_image_gradient` names.
        feature_map: F of x_q, ``(B, C, h, w)``, with its graph.
        embedding: p of x_q, ``(B, D)``, with its graph.
        z: z_q, ``(B, d)`` float32, L2-normalised, with its graph.
        key: z_k, ``(B, d)`` float32, L2-normalised, no gradient.
        contrastive_loss: L_con of each sample, of the global views, ``(B,)``, with its graph.
        contrast: L_con of other embeddings of x_q, ``(B, D) -> (B,)``, against the same keys.
        progress: Finished fraction of the training, in [0, 1].
        number: Number of optimizer steps before this one; equal for all micro-batches of one step.
    """

    batch: Mapping[str, Any]
    image: Tensor
    feature_map: Tensor
    embedding: Tensor
    z: Tensor
    key: Tensor
    contrastive_loss: Tensor
    contrast: Callable[[Tensor], Tensor]
    progress: float
    number: int = 0


def training_step(
    batch: Mapping[str, Any], result: ContrastiveResult, progress: float, number: int = 0
) -> TrainingStep:
    """The :class:`TrainingStep` of a batch and its contrastive result."""
    return TrainingStep(
        batch=batch,
        image=batch["views"][0],
        feature_map=result.features.map,
        embedding=result.features.embedding,
        z=result.z,
        key=result.key,
        contrastive_loss=result.loss,
        contrast=result.contrast,
        progress=progress,
        number=number,
    )


@dataclass(frozen=True)
class LossTerm:
    """Loss of a plugin in one step.

    Attributes:
        value: Loss of each sample ``(B,)``, or a scalar; its batch mean is minimised.
        logs: Scalars to log, by name.
        logged: Whether the value is logged; False in steps in which the plugin computes none.
    """

    value: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    logged: bool = True


class LossPlugin(nn.Module, Configurable):
    """Base class of loss plugins; subclasses implement :meth:`forward`; all other methods are optional.

    Every constructor argument is kept under its own name (see :mod:`ppssl.utils.config`). ``train/loss_<name>`` is
    logged,
    and each of the term's logs as ``train/<name>_<log>``.
    """

    watcher: ClassVar[type[Callback] | None] = None
    """The callback that watches plugins of this type, made without arguments."""

    @property
    def uses_bank(self) -> bool:
        """Whether each training image is embedded once before the first step, and looked up in the steps."""
        return False

    def prepare(self, data: Any, device: torch.device) -> None:  # optional
        """Look at the data before training; called before :meth:`build`, in every process.

        Args:
            data: The data module, after its ``setup``; :func:`numbered_images` refuses loaders.
            device: The device of the training.
        """

    def build(self, encoder: EncoderInfo) -> None:  # optional
        """Create parameters; called before the optimizer is created and after all other modules are."""

    def on_fit_start(self, data: Any, device: torch.device) -> None:  # optional
        """Prepare what needs the plugin's weights; called once they are those of the run, new or resumed.

        Args:
            data: The data module, or ``None`` for loaders.
            device: The device of the training.
        """

    def sizes(self) -> dict[str, Any]:
        """Sizes that :meth:`build` needs beside the encoder, from the data or a teacher; saved in checkpoints.

        Plain types and tensors: other small data that a trained plugin needs without data set and teacher may be added.
        """
        return {}

    def restore_sizes(self, sizes: Mapping[str, Any]) -> None:  # optional
        """Restore the values of :meth:`sizes` from a checkpoint; called before :meth:`build`."""

    def edit_batch(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the encoder is shown of a training batch, in place of it; plugins do so in their order."""
        return batch

    def forward(self, step: TrainingStep) -> LossTerm | None:
        """The loss of one batch; ``None``: no term."""
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `forward(step) -> LossTerm`."
        )

    def weight(self, progress: float) -> float:
        """Weight of the term at ``progress`` in [0, 1] of the training; a term of weight 0 is computed as well."""
        return 1.0

    def needs_image_gradient(self, progress: float, number: int) -> bool:
        """Whether :meth:`forward` differentiates with respect to ``step.image`` in this step.

        Args:
            progress: Finished fraction of the training, in [0, 1].
            number: Number of optimizer steps before this one.
        """
        return False

    def data_requests(self) -> dict[str, Callable[[Any], Tensor]]:
        """Extra entries of the batch: by name, a function from the original RGB image to a tensor."""
        return {}

    def callbacks(self) -> list[Callback]:
        """Callbacks of the plugin; types that the Trainer already has, or subclasses of them, are left out."""
        return [] if self.watcher is None else [self.watcher()]


def weighted_sum(
    terms: Mapping[str, LossTerm], weights: Mapping[str, float]
) -> tuple[Tensor | float, dict[str, Tensor]]:
    """The sum of ``weight * mean of the term``, and the values to log, by name.

    Args:
        terms: Terms by name.
        weights: Weights by name; 1 for terms without one.

    Raises:
        UserError: They are no terms by name, of ``loss_terms`` or a plugin of the user's own.
    """
    _check_terms(terms)
    total: Tensor | float = 0.0
    logs: dict[str, Tensor] = {}
    for name, term in terms.items():
        total = total + weights.get(name, 1.0) * term.value.mean()
        logs |= {f"{name}_{key}": item for key, item in term.logs.items()}
        if term.logged:
            logs[f"loss_{name}"] = term.value.detach().mean()
    return total, logs


def _check_terms(terms: Any) -> None:
    if not isinstance(terms, Mapping):
        raise UserError(
            f"`loss_terms` must return a dict of terms by name, got {kind_of(terms)}: "
            '`return super().loss_terms(step) | {"name": LossTerm(value)}`.'
        )
    for name, term in terms.items():
        if name == "contrastive":
            raise UserError("`contrastive` is the name of L_con: give this term another one.")
        if not isinstance(term, LossTerm):
            given = kind_of(term)
        elif not isinstance(term.value, Tensor):
            given = f"one of {kind_of(term.value)}"
        else:
            continue
        raise UserError(
            f"The loss `{name}` must be a `LossTerm` of a tensor, got {given}: return `LossTerm(value)`."
        )


def check_dim(plugin: LossPlugin, trained: int | None, length: int) -> None:
    """Check that the embeddings of a teacher are as long as those that the head of a trained plugin was made for.

    Raises:
        UserError: They are not.
    """
    if trained != length:
        raise UserError(
            f"{type(plugin).__name__} was trained with embeddings of length {trained}, and those of this teacher have "
            f"length {length}: train on with the former teacher, or begin a new model from the checkpoint's encoder "
            "(`pretrained=path`)."
        )


def numbered_images(data: Any, plugin: LossPlugin, otherwise: str = "") -> Any:
    """Return a data module that numbers its images, for plugins that look something up by ``batch["index"]``.

    Args:
        data: The data module, or ``None``.
        plugin: The plugin, for the error.
        otherwise: What else the user can do, for the error.

    Raises:
        UserError: It is another kind of data module, or none.
    """
    if not hasattr(data, "normalise_with"):
        raise UserError(
            f"{type(plugin).__name__} looks up what the teacher said of an image: train with a data module of ppssl, "
            f"which numbers the images (ppssl.DatasetDataModule takes any data set){otherwise}."
        )
    return data
