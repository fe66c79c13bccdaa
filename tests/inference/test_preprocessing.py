import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ppssl import (
    PPSSL,
    FineTune,
    FolderDataModule,
    embed,
    explain,
    load_encoder,
    load_transform,
    neighbours,
)
from ppssl.checkpointing.view import View
from ppssl.inference.preprocessing import Preprocessing
from ppssl.losses.contrastive import MoCo


def _fit(model: Any, data: Any, folder: Path) -> Path:
    trainer = Trainer(
        max_steps=1,
        logger=False,
        limit_val_batches=0,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def _tiny(**kwargs: Any) -> PPSSL:
    return PPSSL(
        "resnet_small",
        backbone_kwargs={"width": 4},
        contrastive=MoCo(dim=8, queue_size=16),
        **kwargs,
    )


@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_an_image_is_seen_as_in_evaluation(crop: float, image_folder: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"image_size": 48, "eval_crop": crop}
    data = FolderDataModule(str(image_folder), batch_size=8, num_workers=0, **sizes)
    model = PPSSL("test_resnet", contrastive=MoCo(dim=8))
    _fit(model, data, tmp_path)

    transform = load_transform(tmp_path / "last.ckpt")
    source = data.sources["test"]
    ours = torch.stack([transform(source.load(i)) for i in range(len(source))])
    batches = [
        data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
        for batch in data.eval_loader("test")
    ]
    expected = torch.cat([batch["image"] for batch in batches])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    encoder = load_encoder(tmp_path / "last.ckpt")
    with torch.inference_mode():
        torch.testing.assert_close(encoder(ours), model.eval()(expected))
    assert transform(Image.new("RGB", (300, 90))).shape == (3, 48, 48)
    loaded = PPSSL.load_from_checkpoint(tmp_path / "last.ckpt")
    for i, expected_image in enumerate(
        ours
    ):  # the model knows it too, before and after it is saved
        assert model.transform(source.load(i)).equal(expected_image)
        assert loaded.transform(source.load(i)).equal(expected_image)
    assert pickle.loads(pickle.dumps(transform))(source.load(0)).equal(ours[0])


class Fixed(FolderDataModule):
    """Its size is no argument."""

    def __init__(self, images: str) -> None:
        super().__init__(images, image_size=48, batch_size=8, num_workers=0, eval_crop=0.75)
        self.images = images


class Pairs(Dataset[Any]):
    """Batches of other libraries' kind, without a data module."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> Any:
        return {"views": [torch.randn(3, 40, 40) for _ in range(2)], "index": i}


def test_the_size_of_the_training_is_known_whatever_the_data_is(
    image_folder: Path, tmp_path: Path
) -> None:
    image = Image.new("RGB", (300, 90), (10, 200, 90))
    for data, size, crop in (
        (Fixed(str(image_folder)), 48, 0.75),
        (DataLoader(Pairs(), batch_size=8), 40, 0.875),
    ):
        model = _tiny(seed=0)
        path = _fit(model, data, tmp_path)
        assert model.evaluation_view == (size, crop, False, None)
        loaded = PPSSL.load_from_checkpoint(path)
        assert loaded.evaluation_view == (size, crop, False, None)
        for prepare in (load_transform(path), model.transform, loaded.transform):
            assert prepare(image).shape == (3, size, size)


def test_a_model_that_is_trained_on_is_prepared_for_its_last_training(
    image_folder: Path, tmp_path: Path
) -> None:
    path = _fit(_tiny(), DataLoader(Pairs(), batch_size=8), tmp_path)
    loaded = PPSSL.load_from_checkpoint(path)
    assert loaded.evaluation_view == (40, 0.875, False, None)
    assert load_transform(_fit(loaded, Fixed(str(image_folder)), tmp_path))(
        Image.new("RGB", (64, 64))
    ).shape == (3, 48, 48)
    assert loaded.evaluation_view == (48, 0.75, False, None)


def test_before_any_training_it_is_the_models_own_size_or_224() -> None:
    image = Image.new("RGB", (300, 90))
    assert _tiny().transform(image).shape == (3, 224, 224)
    vit = PPSSL("test_vit", image_size=96, contrastive=MoCo(dim=8))
    assert vit.transform(image).shape == (3, 96, 96)


def test_classifiers_have_it_too_and_explain_uses_it(image_folder: Path, tmp_path: Path) -> None:
    data = FolderDataModule(str(image_folder), image_size=40, batch_size=8, num_workers=0)
    model = FineTune("resnet_small", backbone_kwargs={"width": 4})
    path = _fit(model, data, tmp_path)
    image = Image.new("RGB", (300, 90), (10, 200, 90))
    assert model.transform(image).equal(load_transform(path)(image))
    assert model.transform(image).shape == (3, 40, 40)
    (tmp_path / "one").mkdir()
    image.save(tmp_path / "one" / "image.png")
    for given in (model, path):
        assert explain(given, tmp_path / "one").images.shape == (1, 3, 40, 40)


def test_a_file_that_says_nothing_of_the_size(image_folder: Path, tmp_path: Path) -> None:
    path = _fit(_tiny(), Fixed(str(image_folder)), tmp_path)
    content = torch.load(path, weights_only=True)
    del content["ppssl"]["view"]  # as files of earlier versions
    torch.save(content, path)
    assert load_transform(path)(Image.new("RGB", (300, 90))).shape == (3, 224, 224)
    content["ppssl"]["data"]["init_args"] |= {"image_size": 56}
    torch.save(content, path)
    assert load_transform(path)(Image.new("RGB", (300, 90))).shape == (3, 56, 56)


@pytest.mark.parametrize("crop", [0.56, 0.875, 0.9, 0.95, 1.0])
def test_timm_resizes_to_the_same_size(crop: float) -> None:
    for size in [*range(24, 60), 96, 128, 160, 192, 224, 384, 518]:
        preprocessing = Preprocessing(View(size, crop), (0.5,) * 3, (0.5,) * 3)
        cfg = preprocessing.timm()
        theirs: Any = timm.data.create_transform(**cfg, is_training=False)
        assert theirs.transforms[0].size == round(size / crop)
        assert cfg["crop_pct"] == pytest.approx(crop, abs=1 / size)


def test_the_bit_depth_of_the_training_is_that_of_other_images(tmp_path: Path) -> None:
    """An image of 12 bits is as bright for a transform, an explanation and a search as it was in training."""
    rng = np.random.default_rng(0)
    files = [tmp_path / "images" / f"{i}.png" for i in range(4)]
    files[0].parent.mkdir()
    for file in files:
        Image.fromarray(rng.integers(0, 4096, (48, 48), dtype=np.uint16)).save(file)
    data = FolderDataModule(
        str(tmp_path / "images"), image_size=48, batch_size=4, num_workers=0, bit_depth=12
    )
    path = _fit(_tiny(), data, tmp_path)
    expected = next(iter(data.eval_loader("train")))["image"]
    assert expected.max() > 200
    assert explain(path, files).images.equal(expected)
    seen = data.normalise(expected)
    transforms = (load_transform(path), PPSSL.load_from_checkpoint(path).transform)
    for transform in transforms:
        torch.testing.assert_close(transform(Image.open(files[2])), seen[2])
    embeddings = embed(path, out=tmp_path / "e.parquet")
    drawn = tmp_path / "of_files.png", tmp_path / "of_data.png"
    (nearest,) = neighbours(files[1], embeddings, path, k=1, out=drawn[0])
    assert nearest.index == 1
    assert nearest.similarity == pytest.approx(1, abs=1e-6)
    neighbours(files[1], embeddings, path, k=1, out=drawn[1], data=data)
    assert drawn[0].read_bytes() == drawn[1].read_bytes()


def test_images_of_every_mode_are_those_of_the_data_modules() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    model = _tiny()
    grey = image.convert("L")
    torch.testing.assert_close(model.transform(image), model.transform(white), atol=0.02, rtol=0)
    assert model.transform(grey).equal(model.transform(grey.convert("RGB")))
    palette = white.convert("P")
    assert model.transform(palette).equal(model.transform(palette.convert("RGB")))
    upright = model.transform(white.rotate(-90, expand=True))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = white.copy()
    stored.info["exif"] = exif.tobytes()  # as a camera writes it
    assert model.transform(stored).equal(upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "turned"])
def test_the_code_of_a_model_card_takes_images_of_every_mode(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 4), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("RGB" if mode in ("turned", "CMYK") else "RGBA")
    if mode == "turned":
        image.getexif()[0x0112] = 6
    elif mode != image.mode:
        image = image.convert(mode)
    preprocessing = Preprocessing(View(32, 0.875), (0.5,) * 3, (0.25,) * 3)
    names: dict[str, Any] = {}
    exec(preprocessing.code(), names)
    expected = preprocessing.transform()(image)
    torch.testing.assert_close(names["prepare"](image), expected, atol=1e-6, rtol=1e-6)
