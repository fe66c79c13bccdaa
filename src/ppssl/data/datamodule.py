"""The data module all others share: two views and an index for training, gallery and queries for validation.

METHOD D4: pretraining uses all training images and reads no label; a fraction held out splits labels only.
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ppssl.data.dataset import (
    EpochLoader,
    EpochSampler,
    ImageDataset,
    Request,
    ViewDataset,
    check_batch_size,
    collate,
    default_workers,
    ignore_interrupt,
)
from ppssl.data.labelled import LabelledAugmentation, LabelledDataset
from ppssl.data.labels import held_out, labelled
from ppssl.data.source import UNKNOWN, ImageSource
from ppssl.data.transforms import MoCoV2Augmentation, center_view
from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import resolve_seed

__all__ = ["FineGrainedDataModule"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FineGrainedDataModule(LightningDataModule, Configurable):
    """Serves any set of images as the batches that :class:`ppssl.PPSSL` trains and validates on.

    A training batch, after transfer, is a dict of ``views`` (two tensors ``(B, 3, S, S)`` float32, normalised with the
    encoder's mean and std), ``index`` ``(B,)`` int64 (the image's number in the full data set), ``label`` ``(B,)``
    int64 (-1 where unknown), ``geometry`` ``(B, 2, 5)`` float32 (each view's left, top, width, height as fractions of
    the original, and flip), and what plugins requested. A batch for evaluation has ``image`` in place of the views.

    Subclasses implement :meth:`load_sources`; nothing else is needed.

    Args:
        image_size: Height and width of the views in pixels.
        batch_size: Images a process and step.
        num_workers: Worker processes a loader; ``None``: one less than there are cores, at most 8.
        val_fraction: Part of each class whose labels are held out for the online monitors, where the data set has no
            validation split of its own.
        label_fraction: Part of each class whose label may be used downstream; smaller parts lie inside larger ones.
        augmentation: Draws the views; ``None``: MoCo v2's.
        eval_crop: The centre crop for evaluation, as a fraction of the short side.
        on_error: What a broken image does: ``"raise"`` an error with its path, or ``"skip"`` it with one warning; the
            next readable image takes its place.
        seed: For order, views and splits; ``None``: that of ``seed_everything``, or 0.
    """

    def __init__(
        self,
        image_size: int = 224,
        batch_size: int = 128,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        label_fraction: float = 1.0,
        augmentation: MoCoV2Augmentation | None = None,
        eval_crop: float = 0.875,
        on_error: Literal["raise", "skip"] = "raise",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name in ("image_size", "batch_size"):
            if locals()[name] < 1:
                raise ValueError(f"`{name}` must be >= 1, got {locals()[name]}.")
        for name in ("label_fraction", "eval_crop"):
            if not 0 < locals()[name] <= 1:
                raise ValueError(f"`{name}` must be in (0, 1], got {locals()[name]}.")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"`val_fraction` must be in [0, 1), got {val_fraction}.")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}.")
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.label_fraction = label_fraction
        self.augmentation = augmentation
        self.eval_crop = eval_crop
        self.on_error = on_error
        self.seed = seed
        self.sources: dict[str, ImageSource] = {}
        self._requests: dict[str, Request] = {}
        self._labelled: LabelledAugmentation | None = None
        self._skipped: set[str] = set()
        self.normalise_with(IMAGENET_MEAN, IMAGENET_STD)

    @abstractmethod
    def load_sources(self) -> dict[str, ImageSource]:
        """The splits: ``"train"`` always, ``"val"`` and ``"test"`` where there are any.

        Raises:
            UserError: The data is not there or not as it should be.
        """

    # -- what it holds --------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Find the images and split the labels; once, whatever is asked for first."""
        if self.sources:
            return
        self.sources = self.load_sources()
        labels = self.sources["train"].labels
        seed = resolve_seed(self.seed)
        self.train_labelled = labelled(labels, self.label_fraction, seed)
        if "val" in self.sources:
            self.train_fit = self.train_labelled
            self.train_val = np.empty(0, dtype=np.int64)
        else:
            self.train_val = held_out(labels, self.train_labelled, self.val_fraction, seed)
            self.train_fit = np.setdiff1d(self.train_labelled, self.train_val)

    @property
    def classes(self) -> list[str]:
        """Class names in label order; empty where no label is known."""
        return self.sources["train"].classes

    @property
    def num_train(self) -> int:
        """How many images there are to train on."""
        return len(self.sources["train"])

    def offset(self, split: str) -> int:
        """What to add to an image's number within its split to get its index in the full data set."""
        before = list(self.sources)[: list(self.sources).index(split)]
        return sum(len(self.sources[name]) for name in before)

    def locate(self, index: int) -> tuple[str, int]:
        """The split and the number within it of an image, by its index in the full data set."""
        split = [name for name in self.sources if self.offset(name) <= index][-1]
        return split, index - self.offset(split)

    # -- what the model asks for ----------------------------------------------------------------------------------

    def normalise_with(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set the mean and standard deviation of each channel, in units of [0, 1]."""
        self._mean = torch.tensor(mean).view(1, -1, 1, 1)
        self._std = torch.tensor(std).view(1, -1, 1, 1)

    def request(self, requests: Mapping[str, Request]) -> None:
        """Serve two views of all training images, and more entries: a name, and what makes one of the original."""
        self._requests, self._labelled = dict(requests), None

    def request_labelled(self, augmentation: LabelledAugmentation) -> None:
        """Serve the labelled training images that are not held out, one view each; validate queries only."""
        self._labelled = augmentation

    # -- loaders --------------------------------------------------------------------------------------------------

    def train_dataloader(self, epoch: int | None = None) -> DataLoader[Any]:
        """Views of all training images; the order is a function of seed and epoch. The last, partial batch is left out.

        Args:
            epoch: The epoch, all of it; -1 is the pass that fills the queue. ``None``: the one that the Trainer is in,
                without the batches it has already used, where it resumes in mid-epoch.
        """
        world, rank = self._world()
        dataset = self._training_set()
        kind = "training" if self._labelled is None else "labelled training"
        check_batch_size(self.batch_size, world, len(dataset), kind)
        sampler = EpochSampler(
            len(dataset),
            batch_size=self.batch_size,
            num_replicas=world,
            rank=rank,
            seed=resolve_seed(self.seed),
            used=self._used if epoch is None else int,
        )
        sampler.set_epoch(epoch or 0)
        return self._loader(dataset, sampler=sampler, drop_last=True)

    def _training_set(self) -> ViewDataset | LabelledDataset:
        source, drawn = self.sources["train"], self._labelled
        common: dict[str, Any] = {"offset": self.offset("train"), "size": self.image_size}
        common["seed"] = resolve_seed(self.seed)
        if drawn is not None:
            return LabelledDataset(source, items=self.train_fit, augmentation=drawn, **common)
        views = self.augmentation or MoCoV2Augmentation()
        return ViewDataset(source, augmentation=views, requests=self._requests, **common)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Gallery and queries of the validation split; nothing where no label is known."""
        split, items = ("val", None) if "val" in self.sources else ("train", self.train_val)
        queries = self.eval_loader(split, items)
        gallery = self.eval_loader("train", self.train_fit)
        if not len(gallery) or not len(queries):
            return []
        return [gallery, queries] if self._labelled is None else [queries]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Gallery (every labelled training image) and queries (the test split)."""
        if "test" not in self.sources:
            raise UserError(
                "This data set has no test split: add a `test/` folder, or use `ppssl validate`."
            )
        queries = self.eval_loader("test")
        if self._labelled is not None:
            return [queries]
        return [self.eval_loader("train", self.train_labelled), queries]

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test split, or where there is none all training images."""
        return self.eval_loader("test" if "test" in self.sources else "train")

    def eval_loader(
        self, split: str, items: np.ndarray | None = None, transform: Request | None = None
    ) -> DataLoader[Any]:
        """Batches of :meth:`eval_dataset`, which takes the same arguments, in order."""
        return self._loader(self.eval_dataset(split, items, transform))

    def eval_dataset(
        self, split: str, items: np.ndarray | None = None, transform: Request | None = None
    ) -> ImageDataset:
        """Un-augmented images of a split. Batches of them go through :meth:`on_before_batch_transfer` first.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            items: Which, by number within the split; ``None``: all.
            transform: Makes ``image`` of the original; ``None``: the centre crop for evaluation, uint8.
        """
        source = self.sources[split]
        items = np.arange(len(source)) if items is None else items
        if transform is None:
            transform = partial(center_view, size=self.image_size, crop_fraction=self.eval_crop)
        return ImageDataset(source, items=items, offset=self.offset(split), transform=transform)

    def _loader(self, dataset: Dataset[Any], **kwargs: Any) -> DataLoader[Any]:
        workers = default_workers() if self.num_workers is None else self.num_workers
        kind = EpochLoader if "sampler" in kwargs else DataLoader
        return kind(
            dataset,
            batch_size=self.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            worker_init_fn=ignore_interrupt,
            **kwargs,
        )

    def _world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)

    def _used(self) -> int:
        """How many images of the current epoch the Trainer has used in this process."""
        trainer = self.trainer
        if trainer is None or not trainer.training:
            return 0
        return trainer.fit_loop.epoch_loop.batch_progress.current.ready * self.batch_size

    # -- batches --------------------------------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Broken images come back from the workers by name; here, in the main process, they are dealt with."""
        for name in batch.keys() & {"index", "label"}:  # metrics keep them, and a worker's tensor
            batch[name] = batch[name].clone()  # holds an open file for as long as it is kept
        for name, reason in batch.pop("broken", []):
            if self.on_error == "raise":
                raise UserError(
                    f"Cannot read {name}: {reason}. Mend or remove it, or set `on_error: skip`."
                )
            if name not in self._skipped:
                self._skipped.add(name)
                rank_zero_warn(f"Skipped {name}: {reason}.")
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Pixels travel as uint8 and are normalised where the encoder runs."""
        if "views" in batch:
            batch["views"] = [self.normalise(view) for view in batch["views"]]
        if "image" in batch:
            batch["image"] = self.normalise(batch["image"])
        return batch

    def normalise(self, image: Tensor) -> Tensor:
        """``(B, 3, H, W)`` uint8 to float32 with the encoder's mean and std."""
        mean, std = self._mean.to(image.device), self._std.to(image.device)
        return (image.float() / 255 - mean) / std

    def has_labels(self) -> bool:
        """Whether any training image has a known label."""
        return bool((self.sources["train"].labels != UNKNOWN).any())
