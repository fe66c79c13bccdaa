"""Key queue: past keys, each with the index of its image (:ref:`D1 <d1>`)."""

import torch
from torch import Tensor, nn

from ppssl.utils.saved_state import keep_in_state_dict

__all__ = ["KeyQueue"]


class KeyQueue(nn.Module):
    """First-in-first-out queue of keys; checkpoints hold its content and its size.

    Attributes:
        keys: ``(K, D)`` float32, L2-normalised; the first ``filled`` rows are valid.
        index: ``(K,)`` int64, the image each key came from, -1 where unknown.
        position: The row that the next key replaces.
        filled: Number of valid rows.

    Args:
        size: K; a checkpoint that is loaded replaces it.
        dim: D.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.keys = torch.zeros(size, dim)
        self.index = torch.full((size,), -1)
        self.position = self.filled = 0
        keep_in_state_dict(self, "keys", "index", "position", "filled")

    @torch.no_grad()
    def enqueue(self, keys: Tensor, index: Tensor) -> None:
        """Replace the oldest keys by new ones, in order; of more than K new keys the last K are kept.

        Args:
            keys: ``(B, D)``, any B.
            index: ``(B,)`` int64.
        """
        self._follow(index.device)
        size = len(self.keys)
        keys, index = keys[-size:].to(self.keys.dtype), index[-size:]
        before_end = min(len(keys), size - self.position)
        for rows, new in ((self.keys, keys), (self.index, index)):
            rows[self.position : self.position + before_end] = new[:before_end]
            rows[: len(new) - before_end] = new[before_end:]
        self.position = (self.position + len(keys)) % size
        self.filled = min(self.filled + len(keys), size)

    def is_full(self) -> bool:
        """Whether every row is valid."""
        return self.filled == len(self.keys)

    def _follow(self, device: torch.device) -> None:
        self.keys, self.index = self.keys.to(device), self.index.to(device)

    def fill_at_random(self, generator: torch.Generator) -> None:
        """Fill the queue with random directions that belong to no image, as MoCo does."""
        keys = torch.randn(self.keys.shape, generator=generator)
        keys = nn.functional.normalize(keys, dim=1).to(self.keys.device)
        self.enqueue(keys, torch.full_like(self.index, -1))

    def negatives(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Valid keys as negatives, and a mask of those that come from the image of the query.

        Args:
            index: ``(B,)`` int64, the images of the queries.

        Returns:
            The keys ``(N, D)``, not a copy: nothing may be enqueued before the backward pass; and a mask ``(B, N)``
            bool, True where the entry must not count as a negative.
        """
        self._follow(index.device)
        return self.keys[: self.filled], index[:, None] == self.index[None, : self.filled]
