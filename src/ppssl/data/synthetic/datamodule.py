"""Procedural birds as a data module: a fine-grained set that needs no files and in which everything is known."""

from functools import partial
from typing import Any

from rich.progress import Progress, TaskID

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.source import ImageSource
from ppssl.data.synthetic.birds import SyntheticBirds

__all__ = ["SyntheticDataModule"]


class SyntheticDataModule(FineGrainedDataModule):
    """Birds of one silhouette whose classes differ in few small parts, under strong nuisance.

    Drawn once and kept in memory. The pictures depend on ``data_seed`` alone: runs with other seeds see the same ones.

    Args:
        train_size: Training images.
        test_size: Test images.
        num_classes: Classes.
        render_size: Height and width of the originals in pixels; the views are crops of them.
        data_seed: Of the pictures.
        kwargs: The arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    def __init__(
        self,
        train_size: int = 4000,
        test_size: int = 2000,
        num_classes: int = 40,
        render_size: int = 96,
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.train_size = train_size
        self.test_size = test_size
        self.num_classes = num_classes
        self.render_size = render_size
        self.data_seed = data_seed

    def load_sources(self) -> dict[str, ImageSource]:
        """Draw the birds of both splits."""
        birds = {
            split: SyntheticBirds(
                size,
                num_classes=self.num_classes,
                image_size=self.render_size,
                seed=self.data_seed,
                split=split,
            )
            for split, size in (("train", self.train_size), ("test", self.test_size))
        }
        with Progress(transient=True) as progress:
            for split, source in birds.items():
                task = progress.add_task(f"Drawing {split} birds", total=len(source))
                source.materialise(partial(_advance, progress, task))
        return dict(birds)


def _advance(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done)
