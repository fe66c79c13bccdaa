"""Prefill of the key queue before the first step (:ref:`D1 <d1>`)."""

import itertools
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng

from ppssl.losses.batch import check_batch
from ppssl.losses.contrastive.objective import ContrastiveObjective
from ppssl.utils.distributed import rank
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import seed_step, torch_seed

__all__ = ["fill"]


def fill(objective: ContrastiveObjective, trainer: Any, data: Any, seed: int) -> None:
    """Pass training images to an objective until it needs no more.

    Args:
        objective: The objective whose queue is filled.
        trainer: The Trainer, for device and precision.
        data: The data module, whose epochs -1, -2, ... are used; without one of ppssl, the Trainer's own loader.
        seed: The run's seed.

    Raises:
        UserError: The loader has no images, or not for a second pass.
    """
    done = 0
    for number in itertools.count(1):
        if not objective.needs_prefill():
            return
        of_ppssl = hasattr(data, "normalise_with")
        loader = data.train_dataloader(epoch=-number) if of_ppssl else trainer.train_dataloader
        before = done
        for cpu_batch in loader:
            _pass(objective, trainer, cpu_batch, torch_seed(seed, "prefill", done))
            done += 1
            if not objective.needs_prefill():
                return
        if done == before:
            raise UserError(
                f"The training loader has no batch in its pass number {number}, and the key queue is not full: give a "
                "loader that can be iterated again, a smaller `queue_size` of MoCo, or `prefill: random`."
            )


def _pass(objective: ContrastiveObjective, trainer: Any, cpu_batch: Any, seed: int) -> None:
    """Pass a batch of the loader to an objective; dropout and drop path draw by seed and process alone."""
    batch = trainer.strategy.batch_to_device(cpu_batch, trainer.strategy.root_device)
    check_batch(batch)
    with isolate_rng(), trainer.precision_plugin.forward_context():
        seed_step(seed, 0, 0, rank())
        objective.prefill_batch(batch, seed=seed)
