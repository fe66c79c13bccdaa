"""Key queue: past keys, each with the index of its image (:ref:`D1 <d1>`)."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["KeyQueue"]


class KeyQueue(nn.Module):
    """First-in-first-out queue of keys; checkpoints hold its content and its size.

    Attributes:
        keys: ``(K, D)`` float32, L2-normalised; the first ``filled`` rows are valid.
        index: ``(K,)`` int64, the image each key came from, -1 where unknown.

    Args:
        size: K; a checkpoint that is loaded replaces it.
        dim: D.
    """

    keys: Tensor
    index: Tensor
    position: Tensor
    filled: Tensor
    equal_buffers = True  # every process enqueues the same keys

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("index", torch.full((size,), -1))
        self.register_buffer("position", torch.tensor(0))
        self.register_buffer("filled", torch.tensor(0))
        # The same two numbers on the host: reading the buffers would wait for the device in every step.
        self._position = self._filled = 0
        self.register_load_state_dict_pre_hook(_resize)
        self.register_load_state_dict_post_hook(_read_counters)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, index: Tensor) -> None:
        """Replace the oldest keys by new ones, in order; of more than K new keys the last K are kept.

        Args:
            keys: ``(B, D)``, any B.
            index: ``(B,)`` int64.
        """
        size = len(self.keys)
        keys, index = keys[-size:].to(self.keys.dtype), index[-size:]
        before_end = min(len(keys), size - self._position)
        for rows, new in ((self.keys, keys), (self.index, index)):
            rows[self._position : self._position + before_end] = new[:before_end]
            rows[: len(new) - before_end] = new[before_end:]
        self._position = (self._position + len(keys)) % size
        self._filled = min(self._filled + len(keys), size)
        self.position.fill_(self._position)
        self.filled.fill_(self._filled)

    def is_full(self) -> bool:
        """Whether every row is valid."""
        return self._filled == len(self.keys)

    def fill_at_random(self, generator: torch.Generator) -> None:
        """Fill the queue with random directions that belong to no image, as MoCo does."""
        keys = torch.randn(self.keys.shape, generator=generator)
        self.enqueue(
            nn.functional.normalize(keys, dim=1).to(self.keys.device),
            torch.full_like(self.index, -1),
        )

    def negatives(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Valid keys as negatives, and a mask of those that come from the image of the query.

        Args:
            index: ``(B,)`` int64, the images of the queries.

        Returns:
            The keys ``(N, D)``, not a copy: nothing may be enqueued before the backward pass; and a mask ``(B, N)``
            bool, True where the entry must not count as a negative.
        """
        return self.keys[: self._filled], index[:, None] == self.index[None, : self._filled]


def _resize(queue: KeyQueue, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Resize the buffers to the queue size of a checkpoint, before ``load_state_dict`` reads it."""
    saved = state.get(prefix + "keys")
    if saved is not None and saved.shape != queue.keys.shape:
        queue.keys = queue.keys.new_zeros(saved.shape)
        queue.index = queue.index.new_full(saved.shape[:1], -1)


def _read_counters(queue: KeyQueue, _: Any) -> None:
    """Copy the counters from the buffers, after a checkpoint's state is loaded."""
    queue._position, queue._filled = int(queue.position), int(queue.filled)
