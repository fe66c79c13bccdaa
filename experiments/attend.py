"""Attend on both sides (docs/method.md, D19): a second contrast of features that are pooled with attention.

Query and key are both pooled with their own map, and have a head and a queue of their own, so that the embedding stays
as it is. Controls: the generalised mean, and the mean, in place of the map. Upper bounds, on synthetic birds: where the
bird, or its parts, are known to be.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.shown import known_maps
from ppssl import PPSSL
from ppssl.functional import attend, info_nce
from ppssl.losses.background.plugin import maps_of_views
from ppssl.losses.contrastive.keys import gather_keys
from ppssl.losses.contrastive.momentum import automatic_momentum, update_keys
from ppssl.losses.contrastive.queue import KeyQueue
from ppssl.utils.checks import check_choice, check_range

Known = Literal["known", "parts"]
Pool = Literal["energy", "gem", "mean", "known", "parts"]


def energy(feature_map: Tensor) -> Tensor:
    """``(B, C, h, w) -> (B, C)``: attention without a parameter."""
    weights = feature_map.detach().float().square().sum(dim=1)
    return attend(feature_map, weights / weights.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12))


#: ``mean`` is the encoder's own embedding, ``energy`` weighs each place by its squared norm, ``gem`` is the generalised
#: mean (Radenovic et al. 2018) with exponent 3, ``max`` the largest value of each channel.
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda feature_map: feature_map.mean(dim=(2, 3)),
    "energy": energy,
    "gem": lambda feature_map: (
        feature_map.float().clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)
    ),
    "max": lambda feature_map: feature_map.amax(dim=(2, 3)),
}


class AttendBoth(PPSSL):
    """PPSSL with a second MoCo contrast, of pooled features.

    Args:
        pool: How the feature maps of query and key are pooled: with the energy of each place, the generalised mean, the
            mean, or where a synthetic bird is ``"known"`` to be, or its ``"parts"``.
        attend_weight: Weight of the term.
        kwargs: Arguments of PPSSL, whose ``contrastive`` is a MoCo.
    """

    def __init__(self, pool: Pool = "energy", attend_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice(get_args(Pool), pool=pool)
        check_range(">= 0", attend_weight=attend_weight)
        self.pool, self.attend_weight = pool, attend_weight
        self._enqueued: tuple[Tensor, Tensor] | None = None
        self._maps: Tensor | None = None

    def on_fit_start(self) -> None:
        """Make the maps that are known."""
        super().on_fit_start()
        if self.pool in get_args(Known):
            self._maps = known_maps(self._data_module(), cast(Known, self.pool)).to(self.device)

    def build(self, num_images: int) -> None:
        """Also the head and the queue of the pooled features."""
        super().build(num_images)
        moco: Any = self.contrastive
        width = self.encoder.info.channels
        self.pooled_head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, moco.dim)
        )
        self.pooled_key_head = copy.deepcopy(self.pooled_head).requires_grad_(False)
        self.pooled_queue = KeyQueue(len(moco.queue.keys), moco.dim)

    def losses(self, batch: Any, **where: Any) -> Any:
        """As PPSSL's, and the contrast of the pooled features."""
        loss, logs = super().losses(batch, **where)
        moco: Any = self.contrastive
        query = self._pool(self._result.features.map, batch, 0)  # type: ignore[union-attr]
        query = F.normalize(self.pooled_head(query).float(), dim=1)
        with torch.no_grad():
            seen = moco.key_encoder.features(batch["views"][1]).map
            key = F.normalize(self.pooled_key_head(self._pool(seen, batch, 1)).float(), dim=1)
            self._enqueued = gather_keys(key, batch["index"])
        negatives, mask = self.pooled_queue.negatives(batch["index"])
        of_images = info_nce(query, key, negatives, temperature=moco.temperature, mask=mask)
        return loss + self.attend_weight * of_images.mean(), logs

    def on_after_backward(self) -> None:
        """Enqueue the pooled keys as well."""
        super().on_after_backward()
        if self._enqueued is not None:
            self.pooled_queue.enqueue(*self._enqueued)
        self._enqueued = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Momentum update of the second head as well."""
        super().optimizer_step(*args, **kwargs)
        momentum = automatic_momentum(self._total_steps)
        update_keys([(self.pooled_key_head, self.pooled_head)], momentum)

    def _pool(self, features: Tensor, batch: Any, view: int) -> Tensor:
        if self._maps is None:
            return POOLINGS[self.pool](features)
        seen = maps_of_views(self._maps[batch["index"]], batch["geometry"][:, view])
        cells = F.adaptive_avg_pool2d(seen, (features.shape[-2], features.shape[-1]))[:, 0] + 1e-6
        return attend(features, cells / cells.sum(dim=(1, 2), keepdim=True))
