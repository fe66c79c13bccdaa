"""With `data.squash`, everything after the training sees the same squares of long images, without being told."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Trainer
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from ppssl import (
    PPSSL,
    FineGrainedDataModule,
    FineTune,
    FolderDataModule,
    ImageSource,
    embed,
    explain,
    export,
    load_encoder,
    load_transform,
    neighbours,
)
from ppssl.callbacks.example_images import example_batch, example_masks
from ppssl.checkpointing.view import View
from ppssl.data.report import summary
from ppssl.inference.embedding_file import read_description
from ppssl.inference.preprocessing import Preprocessing
from ppssl.losses.contrastive import MoCo
from ppssl.studies.bench_saliency.attributions import select_probe_images


@pytest.fixture
def long_images(tmp_path: Path) -> Path:
    """Two classes, `train` and `test`, of images three times as wide as high, whose ends have other colours."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 120, (40, 120, 3), dtype=np.uint8)
                pixels[:, :30] += rng.integers(0, 130, 3, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


def _data(root: Path, **options: Any) -> FolderDataModule:
    small = {"image_size": 32, "batch_size": 4, "num_workers": 0, "squash": True}
    return FolderDataModule(str(root), **small | options)


def _fit(model: Any, data: Any, folder: Path) -> Path:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=1, limit_val_batches=0, default_root_dir=folder, **quiet)
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def _tiny(cls: Any = PPSSL, **options: Any) -> Any:
    return cls("resnet_small", backbone_kwargs={"width": 4}, **options)


def _evaluated(data: FineGrainedDataModule) -> Tensor:
    """The images of the test split, as evaluation gives them to the encoder."""
    data.setup()
    batches = [
        data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
        for batch in data.eval_loader("test")
    ]
    return torch.cat([batch["image"] for batch in batches])


@pytest.mark.parametrize("crop", [0.875, 1.0])
@pytest.mark.parametrize("cls", [PPSSL, FineTune])
def test_an_image_is_prepared_as_evaluation_does(
    cls: Any, crop: float, long_images: Path, tmp_path: Path
) -> None:
    """To the last bit: of a checkpoint, of a model before and after it is saved, and in saliency maps."""
    data = _data(long_images, eval_crop=crop)
    model = _tiny(cls, **({"contrastive": MoCo(dim=8)} if cls is PPSSL else {}))
    path = _fit(model, data, tmp_path)
    expected = _evaluated(data)
    loaded = cls.load_from_checkpoint(path)
    files = sorted((long_images / "test").rglob("*.png"))
    for prepare in (load_transform(path), model.transform, loaded.transform):
        assert torch.stack([prepare(Image.open(file)) for file in files]).equal(expected)
    assert (
        model.evaluation_view == loaded.evaluation_view == View.of(path) == (32, crop, True, None)
    )
    for given in (model, path):
        assert data.normalise(explain(given, long_images / "test").images).equal(expected)
    central = _evaluated(_data(long_images, eval_crop=crop, squash=False))
    assert not torch.isclose(central, expected, atol=0.1).all(dim=(1, 2, 3)).any()


@pytest.mark.parametrize(
    ("view", "told", "size_crop_and_squash"),
    [
        ((48, 0.75), {}, (48, 0.75, False)),  # before the option
        ((48, 0.75), {"squash": True}, (48, 0.75, True)),
        ((48, 0.75, False), {"squash": True}, (48, 0.75, False)),  # trained on with other data
        (None, {"image_size": 56}, (56, 0.875, False)),
        (None, {"image_size": 56, "eval_crop": 1.0, "squash": True}, (56, 1.0, True)),
    ],
)
def test_checkpoints_of_earlier_versions(
    view: Any, told: dict[str, Any], size_crop_and_squash: Any, long_images: Path, tmp_path: Path
) -> None:
    path = _fit(_tiny(contrastive=MoCo(dim=8)), _data(long_images, squash=False), tmp_path)
    content = torch.load(path, weights_only=True)
    content["ppssl"]["view"] = view
    content["ppssl"]["data"]["init_args"] = told
    torch.save(content, path)
    assert View.of(path) == (*size_crop_and_squash, None)
    assert PPSSL.load_from_checkpoint(path).evaluation_view == View.of(path)
    size, crop, squash = size_crop_and_squash
    image = Image.open(long_images / "test" / "a" / "0.png")
    cfg = PPSSL.load_from_checkpoint(path).encoder.info
    expected = Preprocessing(View(size, crop, squash), cfg.mean, cfg.std).transform()(image)
    assert load_transform(path)(image).equal(expected)


class Squashing(FolderDataModule):
    """Squashes without an argument that says so."""

    def __init__(self, images: str) -> None:
        super().__init__(images, image_size=32, batch_size=4, num_workers=0, squash=True)
        self.images = images


def test_it_is_known_whatever_the_data_is(long_images: Path, tmp_path: Path) -> None:
    path = _fit(_tiny(contrastive=MoCo(dim=8)), Squashing(str(long_images)), tmp_path)
    assert View.of(path) == (32, 0.875, True, None)


def test_what_was_read_says_so(long_images: Path) -> None:
    for squash in (False, True):
        data = _data(long_images, squash=squash)
        data.setup()
        said = summary(data.sources, "there")
        assert (" from there, squashed to squares: train 8, test 8." in said) == squash
        assert "Read 16 images of 2 classes from there" in said


def test_data_of_others_that_has_no_such_option_does_not_squash() -> None:
    assert View.of_data(SimpleNamespace(image_size=40, eval_crop=0.8)) == (40, 0.8, False, None)


class Ends(nn.Module):
    """The means of the left, the middle and the right of an image."""

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012
    num_features = 9

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, (1, 3)).flatten(1) * self.scale


def test_an_image_from_elsewhere_is_its_own_nearest_neighbour(
    long_images: Path, tmp_path: Path
) -> None:
    out, query = tmp_path / "e.parquet", tmp_path / "query.png"
    file = long_images / "test" / "b" / "1.png"
    query.write_bytes(file.read_bytes())
    embed(Ends(), _data(long_images), out)
    assert read_description(out).squash
    nearest = neighbours(query, out, Ends(), k=1)[0]
    assert nearest.path == str(file)
    assert nearest.similarity == pytest.approx(1, abs=1e-6)
    data_of_squares = read_description(out).data
    embed(Ends(), _data(long_images, squash=False), out)  # not taken for those of squares
    assert not read_description(out).squash
    assert read_description(out).data != data_of_squares
    assert neighbours(query, out, Ends(), k=1)[0].similarity == pytest.approx(1, abs=1e-6)


class Marked(ImageSource):
    """Black images, 120 x 40, with a white rectangle, which is annotated."""

    def __init__(self, kind: Literal["box", "object"], count: int) -> None:
        self.kind, self.labels, self.classes = kind, np.arange(count) % 2, ["a", "b"]

    def corners(self, i: int) -> tuple[int, int, int, int]:
        return 5 + 4 * i, 8, 75 + 4 * i, 30

    def load(self, i: int) -> Image.Image:
        image = Image.new("RGB", (120, 40))
        image.paste((255, 255, 255), self.corners(i))
        return image

    def name(self, i: int) -> str:
        return str(i)

    def annotations(self, i: int) -> dict[str, Tensor]:
        if self.kind == "box":
            return {"box": torch.tensor(self.corners(i)) / torch.tensor([120, 40, 120, 40])}
        return {"object": torch.from_numpy(np.asarray(self.load(i))[..., 0] > 0)}


class MarkedData(FineGrainedDataModule):
    """Images whose object is known."""

    def __init__(self, kind: Literal["box", "object"], squash: bool) -> None:
        super().__init__(32, batch_size=2, num_workers=0, squash=squash)
        self.kind = kind

    def load_sources(self) -> dict[str, ImageSource]:
        return {"train": Marked(self.kind, 8), "test": Marked(self.kind, 4)}


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("kind", ["box", "object"])
def test_masks_lie_on_the_object_that_is_seen(kind: Literal["box", "object"], squash: bool) -> None:
    """The object is white: a mask is the image."""
    data = MarkedData(kind, squash)
    data.setup()
    batch = example_batch(data, 4)
    objects, _ = example_masks(data, batch["index"])
    assert objects is not None
    torch.testing.assert_close(objects, batch["image"][:, 0] / 255)
    assert 0.1 < objects.mean() < 0.9
    probes = select_probe_images(data, 4)
    assert probes.masks["bird"].equal((probes.images[:, 0] / 255 >= 0.5).float())


@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_the_code_of_a_model_card_prepares_the_same(crop: float) -> None:
    photo = _photograph(320, 168)
    preprocessing = Preprocessing(View(96, crop, True), (0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    names: dict[str, Any] = {}
    exec(preprocessing.code(), names)
    expected = preprocessing.transform()(photo)
    torch.testing.assert_close(names["prepare"](photo), expected, atol=1e-6, rtol=1e-6)


def _photograph(width: int, height: int) -> Image.Image:
    photo = Image.fromarray(load_sample_image("china.jpg"))
    return photo.crop((0, 0, photo.width, photo.width * height // width)).resize((width, height))


@pytest.mark.parametrize("size", [96, 128, 224])
def test_timm_squashes_nearly_so(size: int) -> None:
    """It resizes once; measured: 0.6 of 255 levels on average and 11 at most, against 32 to 35 for another part."""
    photo = _photograph(640, 336)
    preprocessing = Preprocessing(View(size, 0.875, True), (0.0,) * 3, (1.0,) * 3)
    cfg = timm.data.resolve_data_config({}, pretrained_cfg=preprocessing.timm())
    theirs, central = (
        timm.data.create_transform(**cfg | {"crop_mode": mode}, is_training=False)(photo)
        for mode in (cfg["crop_mode"], "center")
    )
    difference = 255 * (preprocessing.transform()(photo) - theirs).abs()
    assert difference.mean() < 1
    assert difference.max() < 13
    assert 255 * (central - theirs).abs().mean() > 20


@pytest.mark.slow
@pytest.mark.parametrize("to", ["timm", "hf"])
def test_a_folder_for_the_hub_squashes(
    to: Literal["timm", "hf"], long_images: Path, tmp_path: Path
) -> None:
    model = PPSSL("test_resnet", contrastive=MoCo(dim=8))
    path = _fit(model, _data(long_images), tmp_path)
    export(path, to, out := tmp_path / "out")
    photo = _photograph(320, 168)
    theirs: Any
    if to == "timm":
        theirs = timm.create_model(f"local-dir:{out}", pretrained=True)
        cfg = timm.data.resolve_model_data_config(theirs)
        pixels = timm.data.create_transform(**cfg, is_training=False)(photo)[None]
    else:
        from transformers import AutoImageProcessor

        pixels = AutoImageProcessor.from_pretrained(out)(photo, return_tensors="pt")["pixel_values"]
    expected = load_transform(path)(photo)[None]
    assert (
        pixels - expected
    ).abs().mean() < 0.02  # of standard deviations; for the central part 0.6
    assert "squash" in (out / "README.md").read_text()
    assert load_encoder(path)(pixels).shape == load_encoder(path)(expected).shape
