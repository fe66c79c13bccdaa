"""The rows of a table that an encoder's numbers are read in: fewer labels, and the same architecture untrained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ppssl.checkpointing.files import read_checkpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.encoder import Encoder
from ppssl.evaluation.evaluate import described, results_of
from ppssl.evaluation.splits import Splits, embed_splits, read_splits
from ppssl.inference.features import Feature, feature_encoder
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import initial_weights, resolve_seed
from ppssl.utils.results import Results

__all__ = ["Row", "evaluate_rows"]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        encoder: ``"checkpoint"``, ``"random"`` or ``"ImageNet"``.
        label_fraction: Part of each class whose label was used.
        results: What was found.
    """

    encoder: str
    label_fraction: float
    results: Results

    def to_dict(self) -> dict[str, Any]:
        """As plain data: the results, with the row's name."""
        own = {"encoder": self.encoder, "label_fraction": self.label_fraction}
        return own | self.results.to_dict()


def evaluate_rows(
    model: nn.Module | str | Path,
    data: FineGrainedDataModule | None = None,
    *,
    label_fractions: Sequence[float] = (1.0,),
    random: bool = False,
    imagenet: bool | str = False,
    feature: Feature = "gap",
    device: str = "auto",
) -> list[Row]:
    """:func:`~ppssl.evaluation.evaluate.evaluate` for several parts of the labels, and for untrained encoders.

    Every row has the same queries; each encoder embeds the images once.

    Args:
        model: As of ``evaluate``; for untrained encoders beside it, a checkpoint or model of ppssl.
        data: As of ``evaluate``.
        label_fractions: Parts of each class, in (0, 1]; smaller ones lie inside larger ones.
        random: The same architecture with random weights too, which the data set's seed tells.
        imagenet: The same with timm's weights (``True``), or those of a local file (see
            :class:`~ppssl.encoder.Encoder`).
        feature: Which embedding of ``model``; the others have their own.
        device: Where the encoders run.

    Raises:
        UserError: As ``evaluate``; a fraction above the data set's own; weights that are not to be had or do not fit.
    """
    most = 1.0 if data is None else data.label_fraction
    for fraction in label_fractions:
        if not 0 < fraction <= most:
            raise UserError(
                f"`label_fraction` must be in (0, {most:g}], where {most:g} is the data set's own, got {fraction:g}."
            )
    seed = resolve_seed(None if data is None else data.seed)
    rows = []
    for name, splits, config in _embedded(model, data, random, imagenet, feature, device, seed):
        for fraction in label_fractions:
            part = splits.with_labels(fraction, seed)
            told = _with_fraction(config, fraction)
            rows.append(Row(name, fraction, results_of(part, seed=seed, config=told, data=data)))
    return rows


def _embedded(
    model: Any,
    data: FineGrainedDataModule | None,
    random: bool,
    imagenet: bool | str,
    feature: Feature,
    device: str,
    seed: int,
) -> Iterator[tuple[str, Splits, dict[str, Any]]]:
    """Name, embeddings and description of one encoder after the other."""
    untrained: dict[str, bool | str] = {"random": False} if random else {}
    untrained |= {"ImageNet": imagenet} if imagenet else {}
    if data is None:
        if untrained:
            raise UserError(
                "Untrained encoders need a checkpoint and images, not a file of embeddings."
            )
        yield "embeddings", read_splits(model, feature, seed=seed), described(model)
        return
    made = {name: _untrained(model, weights, seed) for name, weights in untrained.items()}
    encoder = feature_encoder(model, feature)
    yield "checkpoint", embed_splits(encoder, data, device=device), described(model, data, feature)
    for name, (other, spec) in made.items():
        config = described(other, data) | {"model": spec}
        yield name, embed_splits(other.model, data, device=device), config


def _untrained(model: Any, pretrained: bool | str, seed: int) -> tuple[Encoder, dict[str, Any]]:
    """An encoder of the model's architecture, and how to make it."""
    spec = _spec(model) | {"pretrained": pretrained}
    with initial_weights(seed, "encoder"):
        return Encoder(**spec), {"class_path": "ppssl.encoder.Encoder", "init_args": spec}


def _spec(model: Any) -> dict[str, Any]:
    if isinstance(model, str | Path):
        return dict(read_checkpoint(model)["ppssl"]["encoder"])
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise UserError(
            "Untrained encoders are made like that of a checkpoint or a model of ppssl: this is neither, but a "
            f"{type(model).__name__}."
        )
    return dict(encoder.spec)


def _with_fraction(config: dict[str, Any], fraction: float) -> dict[str, Any]:
    """A description of what was measured, with the part of the labels that was used."""
    data = config.get("data")
    if data is None:
        return config | {"label_fraction": fraction}
    init_args = data["init_args"] | {"label_fraction": fraction}
    return config | {"data": data | {"init_args": init_args}}
