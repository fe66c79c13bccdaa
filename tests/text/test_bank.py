import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ppssl import FolderDataModule, UserError, ZoomTeacher
from ppssl.losses.ais.targets import make_targets
from ppssl.text import image_bank
from ppssl.text.bank import embed_corpus, open_bank
from ppssl.text.corpus import TextCorpus
from ppssl.text.fixed_crops import FixedCrops
from ppssl.text.image_bank import ImageBank, bank_folder
from ppssl.text.teachers import clip
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.clip import CLIPTeacher

CORPUS = TextCorpus(["red", "green one", "blue"])


def _data(folder: Path, **kwargs: str) -> FolderDataModule:
    data = FolderDataModule(
        str(folder), image_size=16, batch_size=5, num_workers=0, seed=0, **kwargs
    )
    data.setup()
    return data


def _no_teacher(name: str) -> Teacher:
    raise AssertionError("the teacher is not needed")


def test_it_holds_what_the_teacher_says(clip_folder: Path, banks: Path, image_folder: Path) -> None:
    data, teacher = _data(image_folder), CLIPTeacher(str(clip_folder))
    bank = open_bank(str(clip_folder), CORPUS, data)
    images = [data.sources["train"].load(i) for i in range(data.num_train)]
    v = teacher.embed_images(torch.stack([teacher.transform(image) for image in images]))
    torch.testing.assert_close(bank.images[:, 0], v.half())
    torch.testing.assert_close(bank.texts, teacher.embed_texts(CORPUS.titles))
    torch.testing.assert_close(bank.mean, v.half().float().mean(dim=0), atol=1e-6, rtol=1e-5)
    assert bank.temperature == pytest.approx(teacher.temperature)
    assert len(list(banks.rglob("*.npy"))) == 2


def test_a_bank_stays_on_an_accelerator() -> None:
    """Also when a figure asks for images by numbers on the CPU."""
    bank = ImageBank(torch.ones(4, 1, 2).half(), torch.ones(2), 0)
    bank.lookup(torch.tensor([1]))
    assert bank.images.device.type == "cpu"
    bank.lookup(torch.tensor([1], device="meta"))
    assert bank.images.device.type == bank.mean.device.type == "meta"
    bank.lookup(torch.tensor([1]))
    assert bank.images.device.type == bank.mean.device.type == "meta"


def test_a_bank_of_texts_alone(clip_folder: Path, banks: Path) -> None:
    bank = open_bank(str(clip_folder), CORPUS, None)
    torch.testing.assert_close(bank.texts, CLIPTeacher(str(clip_folder)).embed_texts(CORPUS.titles))
    assert bank.images is bank.mean is None
    assert len(list(banks.rglob("*.npy"))) == 1
    with pytest.raises(ValueError, match="texts only has no images: open it with the data module"):
        bank.sample()
    with pytest.raises(ValueError, match="texts only has no targets: open it with the data module"):
        make_targets(bank)


def test_found_again_without_the_teacher(
    clip_folder: Path,
    banks: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    first = open_bank(str(folder), CORPUS, _data(image_folder))
    monkeypatch.setattr(image_bank, "load_teacher", _no_teacher)
    shutil.rmtree(folder)
    again = open_bank(str(folder), CORPUS, _data(image_folder), memory_map=False)
    torch.testing.assert_close(again.images, first.images)
    torch.testing.assert_close(again.texts, first.texts)
    moved = image_folder.rename(tmp_path / "elsewhere")
    open_bank(str(folder), CORPUS, _data(moved))
    with pytest.raises(AssertionError, match="is not needed"):
        open_bank(str(folder), TextCorpus(["another", "corpus"]), _data(moved))
    Image.new("RGB", (40, 40)).save(moved / "train" / "class0" / "new.png")
    with pytest.raises(AssertionError, match="is not needed"):
        open_bank(str(folder), CORPUS, _data(moved))


def test_another_corpus_costs_no_pass_over_the_images(
    clip_folder: Path, banks: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_bank(str(clip_folder), CORPUS, _data(image_folder))

    def fails(self: CLIPTeacher, pixels: Tensor) -> Tensor:
        raise AssertionError("an image was embedded")

    monkeypatch.setattr(CLIPTeacher, "embed_images", fails)
    other = open_bank(str(clip_folder), TextCorpus(["one", "two"]), _data(image_folder))
    assert len(other.texts) == 2


def test_a_changed_teacher_is_refused(
    clip_folder: Path, banks: Path, image_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    open_bank(str(folder), CORPUS, _data(image_folder))
    config = folder / "preprocessor_config.json"
    config.write_text(config.read_text().replace("16", "24"))
    with pytest.raises(UserError, match=r"does not fit: its teacher hash is .* Remove it"):
        open_bank(str(folder), CORPUS, _data(image_folder))


@pytest.mark.parametrize("zoom", [False, True])
def test_a_teacher_is_downloaded_while_its_bank_is_made(
    zoom: bool,
    clip_folder: Path,
    banks: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository, load = tmp_path / "hub" / "models--me--clip", clip._load
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)

    def download(name: str, revision: str = "first") -> Any:
        folder = repository / "snapshots" / revision
        shutil.copytree(clip_folder, folder, dirs_exist_ok=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
        return load(str(folder))

    def teacher() -> str | Teacher:
        zoomed = ZoomTeacher("me/clip", "test_resnet", pretrained=str(weights))
        return zoomed if zoom else "me/clip"

    monkeypatch.setattr(clip, "_load", download)
    open_bank(teacher(), CORPUS, _data(image_folder))
    (repository / "snapshots" / "first" / "added_tokens.json").write_text(
        "{}"
    )  # by another program
    open_bank(teacher(), CORPUS, _data(image_folder))
    assert len(list(banks.rglob("*.npy"))) == 2
    download("me/clip", "second")
    with pytest.raises(UserError, match="does not fit: its teacher hash is first"):
        open_bank(teacher(), CORPUS, _data(image_folder))


def test_an_interrupted_pass_goes_on(
    clip_folder: Path, banks: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    embed = CLIPTeacher.embed_images

    def interrupted(self: CLIPTeacher, pixels: Tensor) -> Tensor:
        seen.append(len(pixels))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return embed(self, pixels)

    monkeypatch.setattr(CLIPTeacher, "embed_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_bank(str(clip_folder), CORPUS, _data(image_folder))
    bank = open_bank(str(clip_folder), CORPUS, _data(image_folder))
    assert seen == [5, 5, 5, 5, 5, 4]  # 24 images: 10 before, the third batch twice
    monkeypatch.setattr(CLIPTeacher, "embed_images", embed)
    straight = open_bank(str(clip_folder), CORPUS, _data(image_folder), folder=str(banks / "b"))
    torch.testing.assert_close(bank.images, straight.images)
    torch.testing.assert_close(bank.mean, straight.mean)


def test_broken_images(clip_folder: Path, banks: Path, image_folder: Path) -> None:
    (image_folder / "train" / "class1" / "3.png").write_text("no image")
    with pytest.raises(UserError, match=r"3\.png"):
        open_bank(str(clip_folder), CORPUS, _data(image_folder))
    with pytest.warns(UserWarning, match=r"Skipped .*3\.png"):
        bank = open_bank(str(clip_folder), CORPUS, _data(image_folder, on_error="skip"))
    empty = ~bank.images.any(dim=-1)[:, 0]
    assert empty.nonzero().ravel().tolist() == [11]  # 8 of class 0, the fourth of class 1
    torch.testing.assert_close(bank.mean, bank.images[~empty, 0].float().mean(dim=0))
    assert bank.sample().shape == (23, 1, bank.texts.shape[1])


def test_crops(clip_folder: Path, banks: Path, image_folder: Path) -> None:
    data = _data(image_folder)
    one = open_bank(str(clip_folder), CORPUS, data)
    three = open_bank(str(clip_folder), CORPUS, data, views=3)
    assert three.images.shape == (24, 3, 8)
    torch.testing.assert_close(three.images[:, :1], one.images)
    assert (three.images[:, 1] != one.images[:, 0]).any()
    sizes: list[tuple[int, int]] = []
    crops = FixedCrops(lambda image: sizes.append(image.size) or torch.zeros(1), 4)
    crops(Image.new("RGB", (200, 100)))
    assert sizes[0] == (200, 100)
    assert all(0.45 < w * h / 20_000 <= 1 and abs(w - 2 * h) <= 2 for w, h in sizes[1:])


class Letters(Teacher):
    """Embeds a text as its counts of a, b and c, and reads 12 characters."""

    def embed_images(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        assert all(map(self.fits, texts))
        counts = [[text.count(letter) for letter in "abc"] for text in texts]
        return F.normalize(torch.tensor(counts, dtype=torch.float32), dim=1)

    def fits(self, text: str) -> bool:
        return len(text) <= 12

    def to(self, device: torch.device | str) -> "Letters":
        return self


def test_phrasings_are_averaged() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts = embed_corpus(Letters(), TextCorpus([["a", "b"], ["c"], ["a", "a."]]))
    half = 2**-0.5
    expected = torch.tensor([[half, half, 0], [0, 0, 1], [1, 0, 0]])
    torch.testing.assert_close(texts, expected)


def test_long_texts_are_split() -> None:
    corpus = TextCorpus(["aaaa aaaa. bbbb bbbb.", "c", "aaa bbb aaa bbb aaa bbb"])
    with pytest.warns(UserWarning, match="2 texts exceed the text encoder's limit"):
        texts = embed_corpus(Letters(), corpus)
    half = 2**-0.5
    torch.testing.assert_close(texts[0], torch.tensor([half, half, 0]))
    assert texts[2, :2].min() > 0.5  # runs of words, of which no letter is lost


def test_where_banks_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PPSSL_CACHE", raising=False)
    assert bank_folder() == Path.home() / ".cache" / "ppssl" / "banks"
    monkeypatch.setenv("PPSSL_CACHE", str(tmp_path))
    assert bank_folder() == tmp_path / "banks"
    assert bank_folder(str(tmp_path / "own")) == tmp_path / "own"
