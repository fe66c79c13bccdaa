"""Normalisation of a data module's images for another encoder, for a while."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ppssl.data.datamodule import FineGrainedDataModule

__all__ = ["normalised"]


@contextmanager
def normalised(
    data: FineGrainedDataModule, mean: Sequence[float], std: Sequence[float]
) -> Iterator[None]:
    """Context in which a data module normalises with this mean and standard deviation, and as before afterwards.

    So an evaluation inside a training run does not change what the run trains on.

    Args:
        data: The data module.
        mean: Mean of each channel, in units of [0, 1].
        std: Standard deviation of each channel.
    """
    before = data.normalisation
    data.normalise_with(tuple(mean), tuple(std))
    try:
        yield
    finally:
        data.normalise_with(*before)
