"""Base class of all data modules: augmented views for training, gallery and query images for evaluation.

Pretraining uses all training images and no label; ``val_fraction`` holds out labels, never images (:ref:`D4 <d4>`).
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ppssl.data.dataset import ImageDataset, LabelledDataset, Request, ViewDataset
from ppssl.data.device_augmentation import augment_views
from ppssl.data.label_splits import select_held_out, select_labelled
from ppssl.data.labelled_augmentation import LabelledAugmentation
from ppssl.data.loader import EpochSampler, check_batch_size, default_workers, make_loader
from ppssl.data.normalisation import IMAGENET_MEAN, IMAGENET_STD, Normalisation
from ppssl.data.own_views import OwnView, check_place
from ppssl.data.report import report, report_unreadable
from ppssl.data.source import UNKNOWN, ImageSource
from ppssl.data.transforms import MoCoV2Augmentation, center_view
from ppssl.utils.checks import check_choice, check_pixels, check_range
from ppssl.utils.config import Configurable
from ppssl.utils.errors import UserError
from ppssl.utils.lightning_internals import batches_begun
from ppssl.utils.randomness import resolve_seed

__all__ = ["FineGrainedDataModule"]


class FineGrainedDataModule(LightningDataModule, Configurable):
    """Base class of the data modules: training and evaluation batches from any set of images.

    A training batch, after transfer, is a dict of ``views`` (V tensors ``(B, 3, S, S)`` float32, normalised with the
    encoder's mean and std; the first two are the global views, further ones may have a size of their own), ``index``
    ``(B,)`` int64 (the image's number in the full data set), ``label`` ``(B,)`` int64 (-1 where unknown), ``geometry``
    ``(B, V, 5)`` float32 (each view's left, top, width, height as fractions of the original, and flip; NaN for own
    views), and what plugins requested. An evaluation batch has ``image`` instead.

    A subclass needs to implement :meth:`load_sources` only.

    Args:
        image_size: Height and width of the first two views in pixels.
        batch_size: Per-device batch size.
        num_workers: Worker processes per data loader; ``None``: the CPU cores but one, divided among the training
            processes of the machine, at most 16.
        prefetch_factor: Batches that each worker makes in advance; ``None``: 2.
        val_fraction: Fraction of each class whose labels are held out for the online monitors, if the data set has no
            validation split.
        label_fraction: Fraction of each class whose labels may be used; smaller fractions are subsets of larger ones.
        augmentation: Augmentation that draws the views; ``None``: MoCo v2's, of two. Or a transform of your own,
            ``image -> view`` or ``(image, generator) -> view``, for each (:data:`~ppssl.data.own_views.OwnView`).
        augment_on: Where views are flipped, recoloured and blurred: in the ``"workers"``, or batched on the
            ``"device"``, for machines with few cores per GPU; the views are equal to 2 of 255 levels.
        eval_crop: The centre crop for evaluation, as a fraction of the short side.
        squash: Whether images are squashed to squares first, for training, teachers and evaluation: for long objects
            that fill their images, such as cars, of which a square would show a part.
        bit_depth: Bits that the values of images with 16 or 32 bits have, 8 to 16: 10 or 12 for many cameras, 8 for
            8-bit values. ``None``: 16; refused if a sample of the images would be nearly black.
        on_error: What happens for an unreadable image: ``"raise"`` an error with its path, or ``"skip"`` it with one
            warning; the next readable image takes its place.
        seed: Seed of the image order, the views and the splits; ``None``: that of ``seed_everything``, or 0.
    """

    def __init__(
        self,
        image_size: int = 224,
        *,
        batch_size: int = 128,
        num_workers: int | None = None,
        prefetch_factor: int | None = None,
        val_fraction: float = 0.1,
        label_fraction: float = 1.0,
        augmentation: MoCoV2Augmentation | OwnView | None = None,
        augment_on: Literal["workers", "device"] = "workers",
        eval_crop: float = 0.875,
        squash: bool = False,
        bit_depth: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_pixels(image_size=image_size)
        check_range(">= 1", batch_size=batch_size, prefetch_factor=prefetch_factor)
        check_range(">= 0", num_workers=num_workers)
        check_range("in (0, 1]", label_fraction=label_fraction, eval_crop=eval_crop)
        check_range("in [0, 1)", val_fraction=val_fraction)
        check_range("in [8, 16]", bit_depth=bit_depth)
        check_choice(("raise", "skip"), on_error=on_error)
        check_choice(("workers", "device"), augment_on=augment_on)
        check_place(augmentation, augment_on)
        self.image_size = image_size
        self.batch_size = int(batch_size)  # torch takes no integer of NumPy
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.val_fraction = val_fraction
        self.label_fraction = label_fraction
        self.augmentation = augmentation
        self.augment_on = augment_on
        self.eval_crop = eval_crop
        self.squash = squash
        self.bit_depth = bit_depth
        self.on_error = on_error
        self.seed = seed
        self.sources: dict[str, ImageSource] = {}
        self._requests: dict[str, Request] = {}
        self._labelled: LabelledAugmentation | None = None
        self._skipped: set[str] = set()
        self.normalise_with(IMAGENET_MEAN, IMAGENET_STD)

    @abstractmethod
    def load_sources(self) -> dict[str, ImageSource]:
        """Load the image sources by split: ``"train"`` always, ``"val"`` and ``"test"`` if they exist.

        Raises:
            UserError: The data is missing or malformed.
        """

    def setup(self, stage: str | None = None) -> None:
        """Load the image sources and split the labels; does nothing from the second call on."""
        if self.sources:
            return
        self.sources = self.load_sources()
        for source in self.sources.values():
            source.squash, source.bit_depth = self.squash, self.bit_depth
            source.check_bit_depth()
        report(self.sources, getattr(self, "root", None))
        labels = self.sources["train"].labels
        seed = resolve_seed(self.seed)
        val_fraction = 0.0 if "val" in self.sources else self.val_fraction
        self.train_labelled = select_labelled(labels, self.label_fraction, seed)
        self.train_val = select_held_out(labels, self.train_labelled, val_fraction, seed)
        self.train_fit = np.setdiff1d(self.train_labelled, self.train_val)

    @property
    def classes(self) -> list[str]:
        """Class names in label order; empty if no label is known."""
        return self.sources["train"].classes

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.sources["train"])

    def has_labels(self) -> bool:
        """Whether any training image has a known label."""
        return bool((self.sources["train"].labels != UNKNOWN).any())

    def offset(self, split: str) -> int:
        """Index of a split's first image in the full data set."""
        before = list(self.sources)[: list(self.sources).index(split)]
        return sum(len(self.sources[name]) for name in before)

    def locate(self, index: int) -> tuple[str, int]:
        """Split of an image and its number within that split, from its index in the full data set."""
        split = [name for name in self.sources if self.offset(name) <= index][-1]
        return split, index - self.offset(split)

    # -- requests of the model ----------------------------------------------------------------------------------

    @property
    def view_sizes(self) -> list[int]:
        """Height and width in pixels of each view; of the first two for an ``augmentation`` of your own."""
        if isinstance(self.augmentation, MoCoV2Augmentation):
            return self.augmentation.view_sizes(self.image_size)
        return [self.image_size] * 2

    def normalise_with(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set the per-channel mean and standard deviation for normalisation, in units of [0, 1]."""
        self.normalisation = Normalisation(mean, std)

    def request(self, requests: Mapping[str, Request]) -> None:
        """Serve views of all training images, and one batch entry per request (a function of the original)."""
        self._requests, self._labelled = dict(requests), None

    def request_labelled(self, augmentation: LabelledAugmentation) -> None:
        """Serve one view of each labelled training image that is not held out; validation has no gallery."""
        self._labelled = augmentation

    # -- loaders --------------------------------------------------------------------------------------------------

    def train_dataloader(self, epoch: int | None = None) -> DataLoader[Any]:
        """Training batches; their order is a function of seed and epoch, and an incomplete last batch is dropped.

        Args:
            epoch: The epoch to serve from its first batch; -1 is the pass that fills the key queue. ``None``: the
                Trainer's current epoch, without the batches that were used before it was resumed.
        """
        world, rank = self._world()
        dataset = self._training_set()
        kind = "training" if self._labelled is None else "labelled training"
        count, seed = len(dataset), resolve_seed(self.seed)
        check_batch_size(self.batch_size, world, count, kind)
        used = self._used if epoch is None else int
        sampler = EpochSampler(
            count, batch_size=self.batch_size, num_replicas=world, rank=rank, seed=seed, used=used
        )
        sampler.set_epoch(epoch or 0)
        return self._loader(dataset, sampler)

    def _training_set(self) -> ViewDataset | LabelledDataset:
        source, labelled = self.sources["train"], self._labelled
        options: dict[str, Any] = {"offset": self.offset("train"), "size": self.image_size}
        options["seed"] = resolve_seed(self.seed)
        if labelled is not None:
            return LabelledDataset(source, items=self.train_fit, augmentation=labelled, **options)
        options |= {"augmentation": self.augmentation or MoCoV2Augmentation()}
        options |= {"requests": self._requests, "on_device": self.augment_on == "device"}
        return ViewDataset(source, **options)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Gallery and query loaders of the validation split; none if no label is known."""
        split, items = ("val", None) if "val" in self.sources else ("train", self.train_val)
        queries = self.eval_loader(split, items)
        gallery = self.eval_loader("train", self.train_fit)
        if not len(gallery) or not len(queries):
            return []
        return [gallery, queries] if self._labelled is None else [queries]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Gallery loader (every labelled training image) and query loader (the test split)."""
        if "test" not in self.sources:
            raise UserError(
                "This data set has no test split: add a `test/` folder, or use `ppssl validate`."
            )
        queries = self.eval_loader("test")
        if self._labelled is not None:
            return [queries]
        return [self.eval_loader("train", self.train_labelled), queries]

    def predict_dataloader(self) -> DataLoader[Any]:
        """Loader of the test split, or of all training images if there is no test split."""
        return self.eval_loader("test" if "test" in self.sources else "train")

    def eval_loader(
        self, split: str, items: np.ndarray | None = None, transform: Request | None = None
    ) -> DataLoader[Any]:
        """Loader of the images of :meth:`eval_dataset` in order; the arguments are the same."""
        return self._loader(self.eval_dataset(split, items, transform))

    def eval_dataset(
        self, split: str, items: np.ndarray | None = None, transform: Request | None = None
    ) -> ImageDataset:
        """Un-augmented images of a split; their batches must pass through :meth:`on_before_batch_transfer` before use.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            items: Image numbers within the split; ``None``: all.
            transform: Function from the original to ``image``; ``None``: the centre crop for evaluation, uint8.
        """
        source = self.sources[split]
        items = np.arange(len(source)) if items is None else items
        if transform is None:
            transform = partial(center_view, size=self.image_size, crop_fraction=self.eval_crop)
        return ImageDataset(source, items=items, offset=self.offset(split), transform=transform)

    def _loader(
        self, dataset: Dataset[Any], sampler: EpochSampler | None = None
    ) -> DataLoader[Any]:
        processes = 1 if self.trainer is None else self.trainer.num_devices
        workers = default_workers(processes) if self.num_workers is None else self.num_workers
        options: dict[str, Any] = {"workers": workers, "prefetch_factor": self.prefetch_factor}
        return make_loader(dataset, batch_size=self.batch_size, sampler=sampler, **options)

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _used(self) -> int:
        """Number of images of the current epoch that the Trainer has used in this process."""
        trainer = self.trainer
        return batches_begun(trainer) * self.batch_size if trainer and trainer.training else 0

    # -- batches --------------------------------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Raise an error or warn about the unreadable images that the workers report under ``broken``."""
        # metrics keep these tensors, and a tensor of a worker holds an open file
        for name in batch.keys() & {"index", "label"}:
            batch[name] = batch[name].clone()
        report_unreadable(batch.pop("broken", []), self.on_error, self._skipped)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finish and normalise the images on the device of the encoder; they are transferred as uint8."""
        if "augmentation" in batch:
            parameters = batch.pop("augmentation")
            batch["views"] = augment_views(batch["views"], batch["geometry"], parameters)
        if "views" in batch:
            batch["views"] = [self.normalise(view) for view in batch["views"]]
        if "image" in batch:
            batch["image"] = self.normalise(batch["image"])
        return batch

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise ``(B, 3, H, W)`` in [0, 255] to float32 with the encoder's mean and standard deviation."""
        return self.normalisation(image)
