"""Data module of synthetic birds, which need no files."""

from functools import partial
from typing import Any

from rich.progress import Progress, TaskID

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.source import ImageSource
from ppssl.data.synthetic.birds import SyntheticBirds
from ppssl.data.synthetic.classes import check_num_classes
from ppssl.utils.checks import check_pixels, check_range

__all__ = ["SyntheticDataModule"]


class SyntheticDataModule(FineGrainedDataModule):
    """Data module of synthetic birds: classes that differ in few small parts, with strong nuisance variation.

    The images are drawn once and kept in memory. They depend on ``data_seed`` alone, not on the run's seed.

    Args:
        train_size: Number of training images.
        test_size: Number of test images.
        num_classes: Number of classes, 2 to 200.
        render_size: Height and width of the originals in pixels; the views are crops of them.
        data_seed: Seed of the images.
        kwargs: Arguments of :class:`~ppssl.data.datamodule.FineGrainedDataModule`.
    """

    def __init__(
        self,
        train_size: int = 4000,
        *,
        test_size: int = 2000,
        num_classes: int = 40,
        render_size: int = 96,
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_range(">= 1", train_size=train_size, test_size=test_size)
        check_pixels(render_size=render_size)
        check_num_classes(num_classes)
        self.train_size = train_size
        self.test_size = test_size
        self.num_classes = num_classes
        self.render_size = render_size
        self.data_seed = data_seed

    def load_sources(self) -> dict[str, ImageSource]:
        """Draw the training and test images."""
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
