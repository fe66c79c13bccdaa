"""Attend on both sides (docs/method.md, D19): a second contrast of features that are pooled with attention.

Query and key are both pooled with their own map, and have a head and a queue of their own, so that the embedding stays
as it is. Controls: the generalised mean, and the mean, in place of the map.
"""

import copy
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.bench.pooling import POOLINGS
from ppssl import PPSSL
from ppssl.functional import info_nce
from ppssl.losses.contrastive.keys import gather_keys
from ppssl.losses.contrastive.momentum import automatic_momentum, update_keys
from ppssl.losses.contrastive.queue import KeyQueue
from ppssl.utils.checks import check_choice, check_range

Pool = Literal["energy", "gem", "mean"]


POOLS = {name: POOLINGS[name] for name in get_args(Pool)}


class AttendBoth(PPSSL):
    """PPSSL with a second MoCo contrast, of pooled features.

    Args:
        pool: How the feature maps of query and key are pooled.
        attend_weight: Weight of the term.
        kwargs: Arguments of PPSSL, whose ``contrastive`` is a MoCo.
    """

    def __init__(self, pool: Pool = "energy", attend_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice(get_args(Pool), pool=pool)
        check_range(">= 0", attend_weight=attend_weight)
        self.pool, self.attend_weight = pool, attend_weight
        self._enqueued: tuple[Tensor, Tensor] | None = None

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
        query = self._project(self.pooled_head, self._result.features.map)  # type: ignore[union-attr]
        with torch.no_grad():
            seen = moco.key_encoder.features(batch["views"][1]).map
            key = self._project(self.pooled_key_head, seen)
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

    def _project(self, head: nn.Module, features: Tensor) -> Tensor:
        return F.normalize(head(POOLS[self.pool](features)).float(), dim=1)
