"""Trains tiny models in one or several processes and keeps what is to be compared, as a script:

``python parallel_runs.py IMAGES OUT DEVICES TEACHER PLUGINS...``. One start does for several models: it takes the time.
"""

import sys
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _BatchNorm

import ppssl.metrics.retrieval
from ppssl import AIS, IADM, PPSSL, FolderDataModule
from ppssl.losses.contrastive import MoCo
from ppssl.text.teachers.clip import CLIPTeacher
from ppssl.utils.distributed import gather

PLUGINS = ("plain", "ais", "iadm", "full")
NORMS = ("none", "frozen")
EPOCHS, GLOBAL_BATCH, QUEUE = 2, 8, 10
COLLECTIVES = ("all_gather", "all_gather_into_tensor", "all_reduce", "broadcast", "barrier")
VIT = {"depth": 1, "embed_dim": 24, "num_heads": 2}
SMALL: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
ENCODERS: dict[str, dict[str, Any]] = {
    "none": {"backbone": "vit_tiny_patch16_224", "image_size": 32, "backbone_kwargs": VIT},
    "frozen": {**SMALL, "batch_norm": "frozen"},
}


class Watch(Callback):
    """Each step's loss, gradients and number of collectives, and how many rows each metric was given and kept."""

    def __init__(self) -> None:
        self.loss: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.rows: set[tuple[int, int]] = set()
        self.collectives: list[int] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.collectives.append(0)
        for name in COLLECTIVES:
            setattr(distributed, name, partial(self._count, getattr(distributed, name)))

    def _count(self, collective: Any, *args: Any, **kwargs: Any) -> Any:
        self.collectives[-1] += 1
        return collective(*args, **kwargs)

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                self.gradients[f"{trainer.global_step}/{name}"] = parameter.grad.clone()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *args: Any) -> None:
        for name in COLLECTIVES:
            setattr(distributed, name, getattr(distributed, name).args[0])
        self.loss[str(trainer.global_step)] = module.all_gather(outputs["loss"]).mean()

    def on_validation_epoch_start(self, *args: Any) -> None:
        first_occurrence = ppssl.metrics.retrieval.first_occurrence
        if first_occurrence.__name__ == "counted":
            return

        def counted(index: Tensor) -> Tensor:
            keep = first_occurrence(index)
            self.rows.add((len(index), len(keep)))
            return keep

        ppssl.metrics.retrieval.first_occurrence = counted

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        ppssl.metrics.retrieval.first_occurrence = _FIRST_OCCURRENCE


_FIRST_OCCURRENCE = ppssl.metrics.retrieval.first_occurrence


class Broadcast(Callback):
    """Which buffers DDP overwrites: before the second step each process but the first gives some a value of its own."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step == 1:
            module.contrastive.queue.index -= 1000 * trainer.global_rank
            self._norm(module).fill_(100.0 * trainer.global_rank)

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step == 2:
            self.found = {
                "own queue entries": int((module.contrastive.queue.index < -1).sum()),
                "largest mean": float(self._norm(module).abs().max()),
                "find_unused_parameters": trainer.strategy.model.find_unused_parameters,
            }

    @staticmethod
    def _norm(module: Any) -> Tensor:
        return next(m for m in module.encoder.modules() if isinstance(m, _BatchNorm)).running_mean


class Shuffle(Callback):
    """The keys of six images a process in two batch-norm groups, and the groups that this process normalised."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        moco = module.contrastive
        state = {name: value.clone() for name, value in moco.state_dict().items()}
        images = torch.randn(
            6, 3, 16, 16, generator=torch.Generator().manual_seed(trainer.global_rank)
        )
        groups: list[Tensor] = []
        hook = moco.key_encoder.register_forward_pre_hook(
            lambda _, args: groups.append(args[0].clone())
        )
        self.found = {
            "keys": moco.keys(images, torch.arange(len(images)), seed=7)[0],
            "images": images,
            "groups": groups,
        }
        hook.remove()
        self.found |= {"state": state, "everyone": gather(images)}


def fit(out: str, images: str, devices: int, model: PPSSL, *callbacks: Callback) -> Trainer:
    """A run with the same global batch whatever the number of processes; ``ddp`` as such."""
    batch_size = GLOBAL_BATCH // devices
    data = FolderDataModule(images, image_size=32, batch_size=batch_size, num_workers=0, seed=0)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=out,
        callbacks=list(callbacks),
    )
    trainer.fit(model, data)
    return trainer


def main(images: str, out: str, devices: int, teacher: str, names: list[str]) -> None:
    for norm in NORMS:
        for name in names:
            torch.manual_seed(0)
            plugins: dict[str, Any] = {}
            if name in ("ais", "full"):
                banks = f"{out}/banks-{devices}"
                plugins["ais"] = AIS("class-names", teacher=teacher, bank_dir=banks)
            if name in ("iadm", "full"):
                plugins["iadm"] = IADM(
                    start=0.2, full=0.5, debias=True, use="both", upscale=2, every=2
                )
            moco = MoCo(dim=8, queue_size=QUEUE)
            model = PPSSL(**ENCODERS[norm], contrastive=moco, lr=0.1, plugins=plugins)
            watch = Watch()
            trainer = fit(out, images, devices, model, watch)
            if trainer.is_global_zero:
                logged = trainer.callback_metrics
                metrics = {k: v for k, v in logged.items() if k.startswith("val/") or "corpus" in k}
                found = {"loss": watch.loss, "gradients": watch.gradients, "metrics": metrics}
                found |= {"state": model.state_dict(), "rows": sorted(watch.rows)}
                found |= {"collectives": watch.collectives}
                torch.save(found, f"{out}/{norm}-{name}-{devices}.pt")
    if devices > 1 and "full" in names:
        torch.manual_seed(0)
        shuffle, broadcast, watch = Shuffle(), Broadcast(), Watch()
        model = PPSSL(**SMALL, contrastive=MoCo(dim=8, queue_size=QUEUE, key_bn_groups=2))
        trainer = fit(out, images, devices, model, shuffle, broadcast, watch)
        found = {"shuffle": shuffle.found, "broadcast": broadcast.found}
        found |= {"collectives": watch.collectives}
        torch.save(found, f"{out}/apart-{devices}-{trainer.global_rank}.pt")


def count_embedded(out: str, devices: int) -> None:
    """Write down how many images the teacher is shown, by whichever process."""
    embed = CLIPTeacher.embed_images

    def counted(self: Any, pixels: Tensor) -> Tensor:
        with open(f"{out}/embedded-{devices}.txt", "a") as file:
            print(len(pixels), file=file)
        return embed(self, pixels)

    CLIPTeacher.embed_images = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    count_embedded(sys.argv[2], int(sys.argv[3]))
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:])
