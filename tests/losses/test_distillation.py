"""Distillation of a teacher's image embeddings, and image encoders of timm as teachers."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from PIL import Image
from safetensors.torch import save_file

from ppssl import (
    AIS,
    PPSSL,
    Distillation,
    FolderDataModule,
    MoCo,
    TimmTeacher,
    UserError,
    ZoomTeacher,
)
from ppssl.losses.loss_plugin import TrainingStep


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return str(path)


def _teacher(weights: str) -> TimmTeacher:
    return TimmTeacher("test_resnet", pretrained=weights, image_size=32)


def _data(images: Path) -> FolderDataModule:
    return FolderDataModule(str(images), image_size=32, batch_size=8, num_workers=0, seed=0)


def _model(plugin: Distillation | AIS) -> PPSSL:
    torch.manual_seed(0)
    small: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    return PPSSL(**small, lr=0.05, contrastive=MoCo(dim=8), plugins={"distillation": plugin})


def _trainer(folder: Path, **kwargs: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        log_every_n_steps=1,
        limit_val_batches=0,
        **({"max_epochs": 1} | quiet | kwargs),
    )


def _embedded_by_timm(weights: str, data: FolderDataModule) -> np.ndarray:
    """Embeddings by timm and Pillow alone, float64."""
    model = timm.create_model("test_resnet", num_classes=0, checkpoint_path=weights).eval()
    cfg, rows = model.pretrained_cfg, []
    for i in range(data.num_train):
        image = data.sources["train"].load(i)
        side = min(image.size)
        left, top = (np.array(image.size) - side) / 2
        small = image.resize(
            (32, 32), Image.Resampling.BICUBIC, (left, top, left + side, top + side)
        )
        pixels = (np.asarray(small) / 255 - cfg["mean"]) / cfg["std"]
        with torch.no_grad():
            rows.append(model(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())[0])
    return torch.stack(rows).double().numpy()


def test_the_loss_is_one_minus_the_cosine_to_centred_embeddings(
    weights: str, image_folder: Path, banks: Path
) -> None:
    data, plugin = _data(image_folder), Distillation(_teacher(weights), loss_weight=2.0)
    data.setup()
    plugin.prepare(data, torch.device("cpu"))
    model = _model(plugin)
    model.build(data.num_train)
    index = torch.tensor([0, 5, 2])
    p = torch.randn(3, model.encoder.info.dim, requires_grad=True)
    fields = dict.fromkeys(TrainingStep.__dataclass_fields__)
    step = TrainingStep(**fields | {"embedding": p, "batch": {"index": index}})  # type: ignore[arg-type]
    term = plugin(step)
    v = _embedded_by_timm(weights, data)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    v = (v - v.mean(axis=0))[index]
    s = plugin.head(p).detach().double().numpy()
    cosine = (s * v).sum(1) / np.linalg.norm(s, axis=1) / np.linalg.norm(v, axis=1)
    assert np.ptp(cosine) > 0.05
    np.testing.assert_allclose(term.value.detach(), 1 - cosine, atol=5e-3)  # v is stored in fp16
    assert term.logs["cosine"].item() == pytest.approx(cosine.mean(), abs=5e-3)
    term.value.mean().backward()
    assert all(q.grad is not None for q in plugin.parameters())  # DDP waits for each
    assert p.grad is not None
    assert plugin.weight(0.0) == plugin.weight(1.0) == 2.0


def test_it_trains_resumes_and_is_loaded_without_the_teacher(
    tmp_path: Path, weights: str, image_folder: Path, banks: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(weights).read_bytes())
    trainer = _trainer(tmp_path)
    trainer.fit(_model(Distillation(_teacher(str(copy)))), _data(image_folder))
    assert 0 < trainer.logged_metrics["train/loss_distillation"] < 2
    assert "train/distillation_cosine" in trainer.logged_metrics
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert {k for k in state if "distillation" in k} == {
        f"plugins.distillation.head.{name}" for name in ("weight", "bias")
    }
    _trainer(tmp_path, max_epochs=2).fit(
        _model(Distillation(_teacher(str(copy)))), _data(image_folder), ckpt_path=path
    )
    copy.unlink()
    loaded = PPSSL.load_from_checkpoint(path)
    torch.testing.assert_close(loaded.state_dict(), state)


def test_the_bank_is_made_once(
    weights: str, image_folder: Path, banks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _data(image_folder)
    data.setup()
    Distillation(_teacher(weights)).prepare(data, torch.device("cpu"))
    first = sorted(banks.rglob("*.npy"))
    assert len(first) == 1

    def no_images(self: TimmTeacher, pixels: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the teacher is not needed")

    monkeypatch.setattr(TimmTeacher, "embed_images", no_images)
    again = Distillation(_teacher(weights))
    again.prepare(data, torch.device("cpu"))
    assert sorted(banks.rglob("*.npy")) == first
    assert "encoder" not in vars(again.teacher)  # not even loaded


def test_other_weights_are_another_teacher(
    tmp_path: Path, weights: str, image_folder: Path, banks: Path
) -> None:
    data = _data(image_folder)
    data.setup()
    Distillation(_teacher(weights)).prepare(data, torch.device("cpu"))
    torch.manual_seed(2)
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), other)
    with pytest.raises(UserError, match="does not fit: its teacher hash"):
        Distillation(_teacher(str(other))).prepare(data, torch.device("cpu"))


def test_views_are_averaged(weights: str, image_folder: Path, banks: Path) -> None:
    data, plugin = _data(image_folder), Distillation(_teacher(weights), teacher_views=3)
    data.setup()
    plugin.prepare(data, torch.device("cpu"))
    _model(plugin).build(data.num_train)
    p, index = torch.randn(2, plugin.head.in_features), torch.tensor([1, 3])
    fields = dict.fromkeys(TrainingStep.__dataclass_fields__)
    term = plugin(TrainingStep(**fields | {"embedding": p, "batch": {"index": index}}))  # type: ignore[arg-type]
    bank = plugin._bank
    assert bank is not None
    s = plugin.head(p)
    each = [
        F.cosine_similarity(s, bank.images[index, k].float() - bank.mean, dim=1) for k in range(3)
    ]
    assert (each[0] - each[1]).abs().min() > 1e-4
    torch.testing.assert_close(term.value, 1 - torch.stack(each).mean(dim=0), atol=1e-5, rtol=0)


def test_ais_needs_a_teacher_of_texts(
    tmp_path: Path, weights: str, image_folder: Path, banks: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("red\ngreen\nblue")
    plugin = AIS(str(corpus), teacher=_teacher(weights))
    with pytest.raises(
        UserError, match="embeds images only, and AIS needs a teacher of images and"
    ):
        _trainer(tmp_path).fit(_model(plugin), _data(image_folder))
    assert not list(banks.rglob("images*"))  # before the images are embedded


@pytest.mark.parametrize("make", [TimmTeacher, partial(ZoomTeacher, "timm/test_resnet")])
def test_random_weights_have_a_bank_of_their_own(make: Any) -> None:
    name = make("test_resnet").name
    assert make("test_resnet", pretrained=False).name == f"{name}, random weights"


def test_a_vit_takes_images_of_another_size(weights: str) -> None:
    """Its own is 160 pixels."""
    teacher = TimmTeacher("test_vit", pretrained=False, image_size=96)
    assert teacher.embed_images(torch.zeros(2, 3, 96, 96)).shape == (2, teacher.dim)
    with pytest.raises(UserError, match="97"):
        _ = TimmTeacher("test_vit", pretrained=False, image_size=97).encoder
    zoom = ZoomTeacher(_teacher(weights), "test_vit", pretrained=False)
    assert zoom.saliency(torch.zeros(2, 3, 32, 32)).shape == (2, 2, 2)


@pytest.mark.parametrize("kind", ["Distillation", "AIS"])
def test_a_loaded_model_refuses_a_teacher_of_another_length(
    kind: str, tmp_path: Path, image_folder: Path, banks: Path, clip_folder: Path
) -> None:
    def plugin(teacher: str) -> Distillation | AIS:
        return Distillation(teacher) if kind == "Distillation" else AIS("birds", teacher=teacher)

    trainer = _trainer(tmp_path, logger=False)
    trainer.fit(_model(plugin(str(clip_folder))), _data(image_folder))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = {"distillation": plugin("synthetic-clip")}
    loaded = PPSSL.load_from_checkpoint(tmp_path / "a.ckpt", plugins=other)
    with pytest.raises(UserError, match=f"{kind} was trained with .* length 8, .* length 128"):
        _trainer(tmp_path, logger=False).fit(loaded, _data(image_folder))


def test_loaders_without_numbers_are_refused(tmp_path: Path, weights: str) -> None:
    batch = {"views": [torch.randn(4, 3, 32, 32)] * 2, "index": torch.arange(4)}
    loader = torch.utils.data.DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Distillation looks up what the teacher said of an image"):
        _trainer(tmp_path).fit(_model(Distillation(_teacher(weights))), loader)


def test_without_a_bank() -> None:
    with pytest.raises(UserError, match="Distillation has no bank yet"):
        _model(Distillation("timm/test_resnet")).build(10)
