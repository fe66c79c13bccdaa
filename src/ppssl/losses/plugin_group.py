"""All loss plugins of a model: what is done with each of them before, in and after a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppssl.losses.loss_plugin import LossPlugin, LossTerm, TrainingStep, weighted_sum
from ppssl.utils.errors import ArgumentError
from ppssl.utils.randomness import initial_weights

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from lightning.pytorch.strategies import Strategy

    from ppssl.encoder import EncoderInfo

__all__ = ["PluginGroup", "as_modules"]

_TAKEN = ("views", "index", "label", "geometry", "augmentation", "broken")


class PluginGroup:
    """The loss plugins of a model.

    Args:
        plugins: Plugins by name: a dict, or the ``nn.ModuleDict`` of a model.
    """

    def __init__(self, plugins: Any) -> None:
        self._plugins: dict[str, LossPlugin] = dict(plugins.items())

    def data_requests(self) -> dict[str, Callable[[Any], Tensor]]:
        """Merge the data requests of all plugins; each name may be requested once."""
        merged: dict[str, Callable[[Any], Tensor]] = {}
        for owner, plugin in self._plugins.items():
            wanted = plugin.data_requests()
            for name in wanted:
                if name in merged or name in _TAKEN:
                    raise ArgumentError(
                        f"`plugins.{owner}` requests `{name}` from the data, which is taken: choose another name."
                    )
            merged |= wanted
        return merged

    def callbacks(self) -> list[Callback]:
        """The callbacks of all plugins."""
        return [callback for plugin in self._plugins.values() for callback in plugin.callbacks()]

    def prepare(self, data: Any, strategy: Strategy) -> None:
        """Let each plugin look at the data (:meth:`LossPlugin.prepare`), on the device of the training."""
        for plugin in self._plugins.values():
            plugin.prepare(data, strategy.root_device)

    def build(self, encoder: EncoderInfo, init_seed: int | None) -> None:
        """Create the parameters of each plugin, whose initial weights depend on the seed and its name."""
        for name, plugin in self._plugins.items():
            with initial_weights(init_seed, name):
                plugin.build(encoder)

    def on_fit_start(self, data: Any, device: torch.device) -> None:
        """Let each plugin prepare what needs its weights."""
        for plugin in self._plugins.values():
            plugin.on_fit_start(data, device)

    def differentiable(
        self, batch: Mapping[str, Any], progress: float, number: int
    ) -> Mapping[str, Any]:
        """The batch; its query's view requires a gradient if a plugin needs one in this step.

        Args:
            batch: A training batch.
            progress: Finished fraction of the training, in [0, 1].
            number: Number of optimizer steps before this one.
        """
        if not any(p.needs_image_gradient(progress, number) for p in self._plugins.values()):
            return batch
        query, *others = batch["views"]
        return dict(batch) | {"views": [query.detach().requires_grad_(), *others]}

    def edited(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch after all plugins' edits (:meth:`LossPlugin.edit_batch`)."""
        for plugin in self._plugins.values():
            batch = plugin.edit_batch(batch)
        return batch

    def terms(self, step: TrainingStep) -> dict[str, LossTerm]:
        """The term of each plugin that has one, by name."""
        terms = {name: plugin(step) for name, plugin in self._plugins.items()}
        return {name: term for name, term in terms.items() if term is not None}

    def weighted_sum(
        self, terms: Mapping[str, LossTerm], progress: float
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """The sum of terms by the weights of their plugins, and the values to log (:func:`weighted_sum`)."""
        return weighted_sum(terms, {n: p.weight(progress) for n, p in self._plugins.items()})

    def sizes(self) -> dict[str, dict[str, Any]]:
        """Sizes of each plugin, by name, for checkpoints."""
        return {name: plugin.sizes() for name, plugin in self._plugins.items()}

    def restore_sizes(self, sizes: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore the sizes of a checkpoint, as far as it has any; other plugins are left as they are."""
        for name, plugin in self._plugins.items():
            if sizes.get(name):
                plugin.restore_sizes(sizes[name])


def as_modules(plugins: Mapping[str, LossPlugin]) -> nn.ModuleDict:
    """The plugins as a part of a model.

    Raises:
        ArgumentError: A name is empty, has a dot, or means something else.
    """
    if bad := [name for name in plugins if not name or "." in name]:
        raise ArgumentError(f"Names in `plugins` must have letters and no dot, got {bad[0]!r}.")
    taken = {"contrastive", *dir(nn.ModuleDict())}
    if bad := [name for name in plugins if name in taken]:
        raise ArgumentError(f"`plugins.{bad[0]}`: the name is taken, choose another one.")
    return nn.ModuleDict(plugins)
