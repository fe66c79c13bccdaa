"""Demonstration: pretrain on synthetic birds with AIS and IADM, and evaluate the encoder before and after."""

from collections.abc import Callable, Sequence
from typing import Any

from ppssl.encoder import evaluation_mode
from ppssl.evaluation.evaluate import evaluate
from ppssl.losses.iadm.callback import draw_panel
from ppssl.studies.lightning_cli import build_recipe
from ppssl.utils.paths import AnyPath, writable_figure, writable_file, writable_folder, writing
from ppssl.utils.results import write_json

__all__ = ["EPOCHS", "RECIPE", "demo"]

RECIPE = "ppssl:synthetic/pretrain"
EPOCHS = 6
"""Number of epochs, fewer than the recipe's: about four minutes on a CPU."""
PLUGINS = (
    "--model.plugins.ais.corpus=synthetic-birds",
    "--model.plugins.ais.teacher=synthetic-clip",
    "--model.plugins.iadm.loss_weight=1.0",
)
PANEL_IMAGES = 6
"""Number of images in the saliency figure."""


def demo(
    out: AnyPath,
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    show: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train the synthetic recipe for :data:`EPOCHS` epochs with IADM and with AIS from the teacher in the package.

    Args:
        out: Folder of the checkpoint, TensorBoard events, ``results.json`` and ``saliency.png``.
        seed: The run's seed.
        overrides: Overrides of the recipe, as on the command line: ``--trainer.max_epochs=1``.
        show: Called with the results before they are written.

    Returns:
        The content of ``results.json``: ``before`` and ``after``, each as :class:`ppssl.utils.results.Results`, and the
        path of the ``checkpoint``.

    Raises:
        UserError: The folder or a file in it cannot be written.
    """
    out = writable_folder(out)
    results_file = writable_file(out / "results.json")
    figure_file = writable_figure(out / "saliency.png")
    defaults = [
        f"--trainer.default_root_dir={out}",
        f"--seed_everything={seed}",
        f"--trainer.max_epochs={EPOCHS}",
        *PLUGINS,
    ]
    built = build_recipe(RECIPE, [*defaults, *overrides])
    before = evaluate(built.model, built.datamodule)
    built.trainer.fit(built.model, built.datamodule)
    after = evaluate(built.model, built.datamodule)
    content = {
        "before": before.to_dict(),
        "after": after.to_dict(),
        "checkpoint": built.trainer.checkpoint_callback.last_model_path,  # type: ignore[union-attr]
    }
    if show is not None:
        show(content)
    write_json(results_file, content)
    with evaluation_mode(built.model):
        panel = draw_panel(built.model, built.model.plugins["iadm"], built.datamodule, PANEL_IMAGES)
    with writing(figure_file):
        panel.savefig(figure_file, dpi=150)
    return content
