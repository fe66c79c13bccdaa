"""Two processes whose own loaders give other batches, as a script: ``python unequal_batches.py KIND``."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ppssl import IADM, PPSSL, UserError
from ppssl.losses.contrastive import MoCo

RANK = int(os.environ.get("LOCAL_RANK", 0))
SIZES = {  # of the batches of each process
    "equal": ([4, 4, 4], [4, 4, 4]),
    "sizes": ([4, 4, 4], [4, 3, 4]),
    "stream": ([4, 4, 4], [4, 4]),
    "counts": ([4, 4, 4], [4, 4]),
}


def batch(size: int, number: int) -> dict[str, Any]:
    views = [torch.randn(size, 3, 32, 32) for _ in range(2)]
    return {"views": views, "index": 10 * number + torch.arange(size)}


class Batches(Dataset[Any]):
    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> Any:
        return batch(self.sizes[i], i)


class Stream(IterableDataset[Any]):
    """Its number of batches is not known, its number of images is."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def __iter__(self) -> Iterator[Any]:
        return (batch(size, i) for i, size in enumerate(self.sizes))


class Endless(DataLoader[Any]):
    def __len__(self) -> int:
        raise TypeError("no length")


def say(text: str) -> None:
    """Both processes share the output: a line is written in one piece."""
    os.write(1, f"process {RANK}: {text}\n".encode())


def main(kind: str) -> None:
    sizes = SIZES[kind][RANK]
    if kind == "stream":
        loader: Any = Endless(Stream(sizes), batch_size=None)
        loader.dataset.__class__.__len__ = lambda self: 12
    else:
        loader = DataLoader(Batches(sizes), batch_size=None)
    model = PPSSL(
        "resnet_small",
        backbone_kwargs={"width": 4},
        contrastive=MoCo(dim=8, queue_size=8),
        plugins={"iadm": IADM(start=0, debias=True)},
        lr=0.1,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        trainer.fit(model, loader)
    except UserError as error:
        say(str(error))
        os._exit(3)
    say(f"{trainer.global_step} steps")


if __name__ == "__main__":
    main(sys.argv[1])
