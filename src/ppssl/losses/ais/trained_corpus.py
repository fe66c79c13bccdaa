"""The descriptions that a student was trained on: what a checkpoint of AIS holds of its corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ppssl.losses.ais.whitening import CorpusWhitening

__all__ = ["TrainedCorpus"]


@dataclass(frozen=True)
class TrainedCorpus:
    """Descriptions with their embeddings, for rankings without data set, bank and teacher.

    Attributes:
        titles: First phrasing of each description.
        texts: Their embeddings ``(M, e)`` float16 as the student is trained on them: whitened, if there is a whitening.
        whitening: Whitening of other texts; or ``None``.
    """

    titles: list[str]
    texts: Tensor
    whitening: CorpusWhitening | None

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Self | None:
        """What :meth:`to_plain` returned; ``None`` of an earlier checkpoint, which has none of it."""
        if content.get("titles") is None:
            return None
        values = content.get("whitening")
        whitening = None if values is None else CorpusWhitening(**values)
        return cls(content["titles"], content["texts"], whitening)

    def to_plain(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        whitening = None if self.whitening is None else dict(vars(self.whitening))
        return {"titles": self.titles, "texts": self.texts, "whitening": whitening}

    def warn_if_replaced(self, titles: list[str], name: str) -> None:
        """Say that a training goes on with other descriptions than these."""
        if titles != self.titles:
            rank_zero_warn(
                f"The {len(titles)} descriptions of the corpus `{name}` are not the {len(self.titles)} that the model "
                "was trained with before: the training goes on with those of now."
            )
