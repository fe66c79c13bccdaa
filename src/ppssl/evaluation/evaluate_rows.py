"""Evaluation of an encoder with fewer labels, and beside baselines: the same architecture with other weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from ppssl.checkpointing.backbone import backbone_of_checkpoint
from ppssl.checkpointing.files import read_checkpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.encoder import Encoder
from ppssl.evaluation.evaluate import evaluate_splits
from ppssl.evaluation.splits import Splits, embed_splits, read_splits, source_config
from ppssl.inference.data_set import data_or_embeddings
from ppssl.inference.embeddings import Feature, feature_encoder
from ppssl.utils.errors import UserError
from ppssl.utils.paths import PATH_TYPES, AnyPath
from ppssl.utils.randomness import initial_weights, resolve_seed
from ppssl.utils.results import Results

__all__ = ["Row", "evaluate_rows"]


@dataclass(frozen=True)
class Row:
    """One row of the evaluation table: an encoder, the labels in use, and the results.

    Attributes:
        encoder: ``"checkpoint"``, ``"random"`` or ``"ImageNet"``; ``"embeddings"`` for a file of embeddings.
        label_fraction: Part of each class whose labels were used.
        results: The results.
    """

    encoder: str
    label_fraction: float
    results: Results

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        name = {"encoder": self.encoder, "label_fraction": self.label_fraction}
        return name | self.results.to_dict()


def evaluate_rows(
    model: nn.Module | AnyPath,
    data: FineGrainedDataModule | None = None,
    *,
    label_fractions: Sequence[float] | None = None,
    random: bool = False,
    imagenet: bool | str = False,
    feature: Feature = "gap",
    device: str = "auto",
) -> list[Row]:
    """Evaluate an encoder with several fractions of the labels, and baselines of the same architecture.

    :func:`~ppssl.evaluation.evaluate.evaluate` for each row. All rows have the same queries, and each encoder embeds
    the images once.

    Args:
        model: As for ``evaluate``; with ``random`` or ``imagenet`` a checkpoint or a model of ppssl.
        data: As for ``evaluate``.
        label_fractions: Parts of each class, in (0, 1]; smaller parts are subsets of larger ones. ``None``: the data
            set's ``label_fraction`` alone.
        random: Add the same architecture with random weights, seeded by the data set's seed.
        imagenet: Add the same architecture with timm's weights (``True``) or with the weights of a local file (see
            :class:`~ppssl.encoder.Encoder`).
        feature: The feature of ``model``; the baselines have ``"gap"``.
        device: Device of the encoders.

    Returns:
        The rows: for each encoder, one row per label fraction.

    Raises:
        UserError: As for ``evaluate``; a fraction exceeds the data set's ``label_fraction``; weights are unavailable or
            do not fit.
    """
    data = data_or_embeddings(model, data)
    largest = 1.0 if data is None else data.label_fraction
    fractions = [largest] if label_fractions is None else label_fractions
    for fraction in fractions:
        if not 0 < fraction <= largest:
            raise UserError(
                f"`label_fraction` must be in (0, {largest:g}], at most the data set's {largest:g}, got {fraction:g}."
            )
    seed = resolve_seed(None if data is None else data.seed)
    rows: list[Row] = []
    for name, splits, config in _encoders(model, data, random, imagenet, feature, device, seed):
        if not rows:
            rank_zero_info(splits.summary())
        for fraction in fractions:
            part = splits.with_labels(fraction, seed)
            row_config = _with_fraction(config, fraction)
            results = evaluate_splits(part, seed=seed, config=row_config, data=data)
            rows.append(Row(name, fraction, results))
    return rows


def _encoders(
    model: Any,
    data: FineGrainedDataModule | None,
    random: bool,
    imagenet: bool | str,
    feature: Feature,
    device: str,
    seed: int,
) -> Iterator[tuple[str, Splits, dict[str, Any]]]:
    """Yield name, embeddings and configuration of the encoder and of each baseline."""
    baseline_weights: dict[str, bool | str] = {"random": False} if random else {}
    if imagenet:
        baseline_weights["ImageNet"] = imagenet
    if data is None:
        if baseline_weights:
            raise UserError(
                "Baselines (`random`, `imagenet`) need a checkpoint and a data set, not a file of embeddings."
            )
        yield "embeddings", read_splits(model, feature, seed=seed), source_config(model)
        return
    # Made first: weights that are unavailable are reported before any image is embedded.
    baselines = {
        name: _baseline(model, weights, seed) for name, weights in baseline_weights.items()
    }
    encoder = feature_encoder(model, feature)
    config = source_config(model, data, feature)
    yield "checkpoint", embed_splits(encoder, data, device=device), config
    for name, (baseline, model_config) in baselines.items():
        config = {"model": model_config, "data": data.config()}
        yield name, embed_splits(baseline.model, data, device=device), config


def _baseline(model: Any, pretrained: bool | str, seed: int) -> tuple[Encoder, dict[str, Any]]:
    """An encoder of the model's architecture with other weights, and its configuration."""
    spec = _architecture(model)
    with initial_weights(seed, "encoder"):
        backbone = backbone_of_checkpoint(spec, "`evaluate(Encoder(...).model, data)`")
        encoder = Encoder(backbone, pretrained, spec["image_size"], spec["kwargs"])
    arguments = {name: encoder.spec[name] for name in ("backbone", "image_size", "kwargs")}
    init_args = arguments | {"pretrained": pretrained}
    return encoder, {"class_path": "ppssl.encoder.Encoder", "init_args": init_args}


def _architecture(model: Any) -> dict[str, Any]:
    """Description of the model's :class:`~ppssl.encoder.Encoder`."""
    if isinstance(model, PATH_TYPES):
        return dict(read_checkpoint(model)["ppssl"]["encoder"])
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise UserError(
            "Baselines (`random`, `imagenet`) need a checkpoint or a model of ppssl, got a "
            f"{type(model).__name__}."
        )
    return dict(encoder.spec)


def _with_fraction(config: dict[str, Any], fraction: float) -> dict[str, Any]:
    """The configuration with the fraction of the labels that a row used."""
    data = config.get("data")
    if data is None:
        return config | {"label_fraction": fraction}
    init_args = data["init_args"] | {"label_fraction": fraction}
    return config | {"data": data | {"init_args": init_args}}
