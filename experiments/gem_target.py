"""An anchor whose starting encoder pools by the generalised mean, while the trained encoder pools by the mean."""

from ppssl import Anchor, Teacher
from ppssl.encoder import Encoder
from ppssl.utils.gem import pool_by_gem


class AnchorGeM(Anchor):
    """A :class:`ppssl.Anchor` with ``p_0`` pooled by :class:`~ppssl.utils.gem.GeM` of exponent 3."""

    def teacher(self, encoder: Encoder, image_size: int) -> Teacher:
        """The starting encoder, with another pooling."""
        pool_by_gem(encoder.model, encoder.name)
        return super().teacher(encoder, image_size)
