"""The generalised mean as the pooling of a timm model: ``global_pool: gem``."""

from typing import Any

import torch
from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool, SelectAdaptivePool2d
from torch import Tensor, nn

from ppssl.utils.errors import UserError

__all__ = ["EXPONENT", "GeM", "is_gem", "pool_by_gem"]

EXPONENT = "global_pool.pool.exponent"
"""How the name of the learned exponent ends in a model's weights."""


class GeM(nn.Module):
    """Generalised mean of each channel over places, ``(mean x^e)^(1/e)``, as in Radenovic et al. (TPAMI 2018).

    e = 1 is the mean of what is positive, and the larger e, the nearer it is to the maximum. It is learned, one for all
    channels; values below 1e-6 count as 1e-6. Computed in float32 at least, returned in the dtype of the map.

    Args:
        dim: The dimensions of the places.
        keepdim: Whether these stay, with one place.
        exponent: e at first.
    """

    def __init__(
        self, dim: tuple[int, int] = (2, 3), keepdim: bool = True, exponent: float = 3.0
    ) -> None:
        super().__init__()
        self.dim, self.keepdim = dim, keepdim
        self.exponent = nn.Parameter(torch.tensor([exponent]))

    def forward(self, feature_map: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C, 1, 1)`` or ``(B, C)``; gradients flow to the map and to e."""
        with torch.autocast(feature_map.device.type, enabled=False):
            values = feature_map.to(torch.promote_types(feature_map.dtype, torch.float32))
            exponent = self.exponent.to(values.dtype)
            powers = values.clamp(min=1e-6).pow(exponent)
            pooled = powers.mean(dim=self.dim, keepdim=self.keepdim).pow(1 / exponent)
        return pooled.to(feature_map.dtype)


def is_gem(kwargs: Any) -> bool:
    """Whether arguments of a timm model ask for GeM."""
    return kwargs.get("global_pool") == "gem"


def pool_by_gem(model: nn.Module, backbone: str, option: str = "global_pool: gem") -> None:
    """Replace the mean with which a timm model of convolutions pools its feature map.

    Args:
        model: The model.
        backbone: Its name, for the error.
        option: What asked for it, for the error.

    Raises:
        UserError: It pools otherwise.
    """
    pools: list[Any] = [p for p in model.modules() if isinstance(p, SelectAdaptivePool2d)]
    if len(pools) != 1 or not isinstance(pools[0].pool, nn.AdaptiveAvgPool2d | FastAdaptiveAvgPool):
        raise UserError(
            f"`{backbone}` does not pool a feature map by its mean, for which `{option}` could stand: leave that out, "
            "or choose a model of convolutions."
        )
    mean = pools[0].pool
    pools[0].pool_type = "gem"
    pools[0].pool = (
        GeM(mean.dim, not mean.flatten) if isinstance(mean, FastAdaptiveAvgPool) else GeM()
    )
