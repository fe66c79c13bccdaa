"""Base class of contrastive objectives, and their result: what loss plugins may rely on with every base."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ppssl.encoder import Encoder, Features
from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError

__all__ = ["ContrastiveObjective", "ContrastiveResult"]


@dataclass(frozen=True)
class ContrastiveResult:
    """Contrastive loss of a batch, with the tensors that it was computed from.

    View 0 is the query's view. An objective without negatives, or in which both views are queries, has all attributes
    too. All are of views 0 and 1, the global views, also if the batch has more.

    Attributes:
        loss: L_con of each sample, ``(B,)`` float32, with its graph; its mean is minimised.
        features: Feature map and embedding of the query's view, with their graph, down to the view itself.
        z: z_q, ``(B, d)`` float32, L2-normalised, with its graph: what is compared with the key, so after a prediction
            head if there is one.
        key: z_k, the positive of z_q, ``(B, d)`` float32, L2-normalised, no gradient.
        contrast: The part of L_con in which the query's view is the query, of other embeddings of that view,
            ``(B, D) -> (B,)``, against the same keys, which get no gradient. Of the embedding itself it is L_con, or
            where both views are queries the share of view 0. It changes no state.
        enqueued: What :meth:`ContrastiveObjective.after_backward` takes into the state, of all processes.
        logs: Scalars to log, by name.
        further: Loss of the embeddings of a further view (:meth:`ContrastiveObjective.over_views`), on the scale of
            ``loss``, ``(B, D) -> (B,)`` float32: as a query against the targets of the global views, which get no
            gradient. ``None``: the objective takes two views.
    """

    loss: Tensor
    features: Features
    z: Tensor
    key: Tensor
    contrast: Callable[[Tensor], Tensor]
    enqueued: tuple[Tensor, ...] = ()
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    further: Callable[[Tensor], Tensor] | None = None


class ContrastiveObjective(nn.Module, Configurable):
    """Contrastive loss over views of images, with its state between steps (momentum encoder, key queue).

    Loss plugins work with every subclass that keeps this contract (``tests/losses/contrastive``):

    - :meth:`forward` fills all attributes of :class:`ContrastiveResult`, in float32 where it says so, also under mixed
      precision.
    - Encoder and heads get a gradient from ``loss``; keys, and copies of the encoder, do not.
    - Every trained parameter is used in every step, or DDP waits for its gradient.
    - No image is a negative of itself, by ``batch["index"]``.
    - Several processes have the loss and gradient of one with the whole batch, but for statistics of batch norm.
      Gathering is part of :meth:`forward`, never of a backward pass: plugins may differentiate as often as they like.
    - State that outlives a step is in parameters and buffers; it changes in :meth:`after_backward` and
      :meth:`after_step` alone, but for the running statistics of batch norm. Then a resumed run is bitwise the same.
      What ``EMAWeightAveraging`` must not average with the weights, as a queue, is no buffer but an attribute that
      :func:`~ppssl.utils.saved_state.keep_in_state_dict` saves.
    - Random numbers come from ``seed`` alone.
    - What is said of ``loss`` holds for ``further``, for which :meth:`forward` is given the global views alone.
    - A batch of one image has a finite loss, or raises a :class:`~ppssl.UserError` that says what to do.

    Constructor arguments are kept under their own names (:class:`~ppssl.utils.config.Configurable`).
    """

    @abstractmethod
    def build(self, encoder: Encoder, *, num_images: int) -> None:
        """Create parameters and buffers; called once, before the optimizer is created.

        Args:
            encoder: The encoder that will be trained.
            num_images: N, the number of training images.
        """

    @abstractmethod
    def forward(
        self, encoder: Encoder, batch: Mapping[str, Any], *, seed: int
    ) -> ContrastiveResult:
        """Loss of a batch; does not change the state.

        Args:
            encoder: The encoder that is trained.
            batch: ``views``, the two global ones, and ``index``.
            seed: Seed of the step, equal on all processes.
        """

    def over_views(
        self, encoder: Encoder, batch: Mapping[str, Any], *, seed: int
    ) -> tuple[ContrastiveResult, Tensor]:
        """:meth:`forward` of the global views, and L_con of each image over all views, ``(B,)`` float32.

        L_con is the mean of the loss of the global views and of the loss of each further view, which is a query only
        (multi-crop: Caron et al., arXiv 2006.09882 and 2104.14294). A further view is compared with as many targets as
        the global views have queries, so it is the mean over all pairs of query and target, and its scale does not
        depend on the number of views.

        Args:
            encoder: The encoder that is trained.
            batch: ``views``, two or more, of which those after the second may have another size; and ``index``.
            seed: Seed of the step, equal on all processes.

        Raises:
            UserError: There are more than two views, and the objective takes two; or the encoder does not take their
                size.
        """
        pair, views = batch["views"][:2], batch["views"][2:]
        result: ContrastiveResult = self(encoder, dict(batch) | {"views": pair}, seed=seed)
        if not views:
            return result, result.loss
        if result.further is None:
            raise UserError(
                f"`{type(self).__name__}` takes two views, and this batch has {2 + len(views)}: set `further` of its "
                "ContrastiveResult, or make two views (`local_crops: 0`)."
            )
        losses = [result.loss]
        for view in views:
            encoder.check_further_view(view.shape[2], view.shape[3])
            losses.append(result.further(encoder(view)))
        return result, torch.stack(losses).mean(dim=0)

    def needs_prefill(self) -> bool:
        """Whether it needs (more) batches before training begins."""
        return False

    def prefill_batch(self, batch: Mapping[str, Any], *, seed: int) -> None:  # optional
        """Take in a batch before training begins."""

    def after_backward(self, result: ContrastiveResult) -> None:  # optional
        """Called once for each micro-batch, after its backward pass."""

    def after_step(  # optional
        self, encoder: Encoder, *, progress: float, total_steps: int
    ) -> None:
        """Called once after each optimizer step.

        Args:
            encoder: The encoder, after the step.
            progress: Finished fraction of the training before the step, in [0, 1].
            total_steps: Number of optimizer steps of the run.
        """
