"""The demonstration: pretrain on synthetic birds with AIS, and compare the encoder before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppssl.downstream.evaluate import evaluate
from ppssl.recipes import build_recipe
from ppssl.results import write_json

__all__ = ["EPOCHS", "RECIPE", "demo"]

RECIPE = "ppssl:synthetic/pretrain"
EPOCHS = 6
"""Fewer than the recipe's, for some three minutes."""
PLUGINS = (
    "--model.plugins.ais.corpus=synthetic-birds",
    "--model.plugins.ais.teacher=synthetic-clip",
)


def demo(out: str | Path, *, seed: int = 0, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train the synthetic recipe with AIS, from the embedded teacher, for :data:`EPOCHS` epochs.

    Args:
        out: The folder for checkpoint, TensorBoard events and ``results.json``.
        seed: The run's seed.
        overrides: Of the recipe, as on the command line: ``--trainer.max_epochs=1``.

    Returns:
        What ``results.json`` holds: ``before`` and ``after``, each as :class:`ppssl.results.Results`, and where the
        checkpoint is.
    """
    own = [
        f"--trainer.default_root_dir={out}",
        f"--seed_everything={seed}",
        f"--trainer.max_epochs={EPOCHS}",
        *PLUGINS,
    ]
    built = build_recipe(RECIPE, [*own, *overrides])
    before = evaluate(built.model, built.datamodule)
    built.trainer.fit(built.model, built.datamodule)
    after = evaluate(built.model, built.datamodule)
    content = {
        "before": before.to_dict(),
        "after": after.to_dict(),
        "checkpoint": built.trainer.checkpoint_callback.last_model_path,  # type: ignore[union-attr]
    }
    write_json(Path(out) / "results.json", content)
    return content
