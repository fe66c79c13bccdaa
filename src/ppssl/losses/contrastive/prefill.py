"""Prefill of the key queue before the first step (:ref:`D1 <d1>`)."""

from typing import Any

from ppssl.losses.contrastive.objective import ContrastiveObjective
from ppssl.utils.randomness import torch_seed

__all__ = ["fill"]


def fill(objective: ContrastiveObjective, trainer: Any, data: Any, seed: int) -> None:
    """Pass training images to an objective until it needs no more.

    Args:
        objective: The objective whose queue is filled.
        trainer: The Trainer, for device and precision.
        data: The data module, whose epoch -1 is used; without one of ppssl, the Trainer's own loader.
        seed: The run's seed.
    """
    if not objective.needs_prefill():
        return
    of_ppssl = hasattr(data, "normalise_with")
    loader = data.train_dataloader(epoch=-1) if of_ppssl else trainer.train_dataloader
    device = trainer.strategy.root_device
    while objective.needs_prefill():
        for i, cpu_batch in enumerate(loader):
            batch = trainer.strategy.batch_to_device(cpu_batch, device)
            with trainer.precision_plugin.forward_context():
                objective.prefill_batch(batch, seed=torch_seed(seed, "prefill", i))
            if not objective.needs_prefill():
                return
