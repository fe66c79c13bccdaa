"""Data of one's own: what a training batch must be and what came instead, in one line."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ppssl import PPSSL, FolderDataModule, MoCo, UserError
from ppssl.losses.batch import check_batch
from ppssl.losses.contrastive.prefill import fill

VIEW = torch.zeros(3, 32, 32)
TO_TENSOR = v2.Compose([v2.ToImage(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True)])


class Items(Dataset[Any]):
    """24 copies of an item."""

    def __init__(self, **item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.item | ({"index": i} if self.item.get("index", 0) is None else {})


class UnequalViews(DataLoader[Any]):
    """A loader whose third view lacks an image."""

    def __init__(self) -> None:
        super().__init__(Items(views=[VIEW, VIEW, VIEW[:, :8, :8]], index=None), batch_size=8)

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            batch["views"][2] = batch["views"][2][1:]
            yield batch


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([{"views": [VIEW, VIEW], "index": i} for i in range(24)])


def _fit(data: Any, folder: Path, **options: Any) -> PPSSL:
    torch.manual_seed(0)
    model = PPSSL("resnet_small", backbone_kwargs={"width": 4}, lr=0.01, **options)
    trainer = Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(model, data)
    return model


@pytest.mark.parametrize("prefill", ["keys", "random"])
@pytest.mark.parametrize(
    ("data", "came"),
    [
        (
            TensorDataset(torch.zeros(24, 3, 32, 32), torch.zeros(24)),
            r"list of a tensor \(8, 3, 32",
        ),
        (torch.zeros(24, 3, 32, 32), r"got a tensor \(8, 3, 32, 32\) of float32"),
        (Items(image=VIEW, label=1), "got a dict with `image`, `label`"),
        (Items(views=[VIEW, VIEW]), "got a dict with `views`"),
        (Items(views=[VIEW], index=None), r"got `views` that are a list of a tensor \(8, 3"),
        (Items(views=torch.stack([VIEW, VIEW]), index=None), r"a tensor \(8, 2, 3, 32, 32\)"),
        (Items(views=[VIEW.byte()] * 2, index=None), "of uint8, a tensor"),
        (Items(views=[VIEW[:1]] * 2, index=None), r"`views` that are a list of a tensor \(8, 1, 3"),
        (Items(views=[torch.zeros(4, 8, 8)] * 2, index=None), r"a tensor \(8, 4, 8, 8\)"),
        (
            UnequalViews(),
            r"first is a tensor \(8, 3, 32, 32\) .* another one a tensor \(7, 3, 8, 8\)",
        ),
        (Items(views=[VIEW] * 2, index="a"), "got an `index` that is a list of a str"),
        (Items(views=[VIEW] * 2, index=1.0), r"got an `index` that is a tensor \(8,\) of float64"),
    ],
)
def test_what_came_is_said(data: Any, came: str, prefill: Any, tmp_path: Path) -> None:
    contrastive = MoCo(dim=8, queue_size=16, prefill=prefill)
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=8)
    with pytest.raises(UserError, match=f"must be a dict with `views`.*{came}.*FolderDataModule"):
        _fit(loader, tmp_path, contrastive=contrastive)


def test_so_it_is_of_an_image_folder(image_folder: Path, tmp_path: Path) -> None:
    images = ImageFolder(str(image_folder / "train"), TO_TENSOR)
    with pytest.raises(UserError, match=r"got a list of a tensor \(8, 3, 32, 32\) of float32, a t"):
        _fit(DataLoader(images, batch_size=8), tmp_path)
    with pytest.raises(UserError, match=r"must be a DataLoader .* got a ImageFolder"):
        _fit(images, tmp_path)
    with pytest.raises(UserError, match=r"must be a DataLoader .* got a DataLoader"):
        _fit(DataLoader(Stream(), batch_size=8), tmp_path)


@pytest.mark.parametrize("further", [[], [(3, 16, 16), (3, 12, 20)]])
def test_a_loader_of_dicts_trains(further: list[Any], tmp_path: Path) -> None:
    shapes = [(3, 32, 32), (3, 32, 32), *further]
    good = Items(views=[torch.rand(shape) for shape in shapes], index=None)
    assert _fit(DataLoader(good, batch_size=8), tmp_path).global_step == 3


@pytest.mark.parametrize("kind", [dict, list])
def test_lists_and_more_views_are_taken(kind: type) -> None:
    views = [torch.zeros(2, 3, 8, 8)] * 3
    check_batch({"views": tuple(views) if kind is dict else views, "index": torch.arange(2)})


class Keys:
    """An objective that takes a number of batches, and keeps them."""

    def __init__(self, batches: int) -> None:
        self.batches, self.seen = batches, list[tuple[int, Tensor]]()

    def needs_prefill(self) -> bool:
        return len(self.seen) < self.batches

    def prefill_batch(self, batch: Any, *, seed: int) -> None:
        self.seen.append((seed, batch["views"][0]))


def test_each_pass_of_the_prefill_has_new_views(image_folder: Path, tmp_path: Path) -> None:
    data = FolderDataModule(image_folder, image_size=32, batch_size=8, num_workers=0)
    data.setup()
    keys: Any = Keys(9)
    trainer: Any = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    trainer.strategy.batch_to_device = lambda batch, _: data.on_after_batch_transfer(batch, 0)
    fill(keys, trainer, data, seed=0)
    assert len({seed for seed, _ in keys.seen}) == 9
    images = [view for _, batch in keys.seen for view in batch]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(images, 2))


def test_a_loader_for_one_pass_is_one_line(tmp_path: Path) -> None:
    batch = {"views": [torch.zeros(2, 3, 8, 8)] * 2, "index": torch.arange(2)}
    trainer: Any = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    once = iter([batch, batch])
    for loader, number in ((once, 2), ([], 1)):
        stand_in: Any = type("Stand", (), {"train_dataloader": loader})()
        stand_in.strategy, stand_in.precision_plugin = trainer.strategy, trainer.precision_plugin
        keys: Any = Keys(3)
        with pytest.raises(UserError, match=f"no batch in its pass number {number}"):
            fill(keys, stand_in, None, seed=0)
