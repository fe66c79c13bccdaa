import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import ppssl
from ppssl import IADM, PPSSL, FolderDataModule, UserError, explain
from ppssl.cli.main import main
from ppssl.data.transforms import center_view
from ppssl.encoder import Encoder
from ppssl.functional import image_gradcam, saliency_target
from ppssl.inference.explain import View, image_files
from ppssl.losses.contrastive import MoCo
from ppssl.losses.iadm.output_gradcam import output_gradcam

VIEW = View(size=32, crop=1.0)
LARGE = View(size=96, crop=1.0)  # stride 32 leaves 3 x 3 places


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model with IADM, trained for a step on images of 32 pixels."""
    folder = tmp_path_factory.mktemp("explain")
    (folder / "images").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    model = PPSSL(**kwargs, contrastive=MoCo(dim=8), plugins={"iadm": IADM(upscale=2)})
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(default_root_dir=folder, max_steps=1, accelerator="cpu", **quiet)  # type: ignore[arg-type]
    data = FolderDataModule(str(folder / "images"), image_size=32, batch_size=4, num_workers=0)
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def _input(folder: Path, size: int = 32) -> torch.Tensor:
    """The images as the encoder sees them, by hand."""
    paths = sorted(folder.rglob("*.png"))
    views = torch.stack([center_view(Image.open(p).convert("RGB"), size, 1.0) for p in paths])
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (views / 255 - mean) / std


def test_maps_of_a_checkpoint(checkpoint: Path, image_folder: Path) -> None:
    folder = image_folder / "train" / "class0"
    found = explain(checkpoint, folder, view=VIEW)
    assert found.names == [str(i) for i in range(8)]
    assert {title: tuple(m.shape) for title, m in found.maps.items()} == {
        "image GradCAM": (8, 32, 32),
        "pooled": (8, 4, 4),
        "iadm branch": (8, 8, 8),
        "output Grad-CAM": (8, 32, 32),
    }
    model = PPSSL.load_from_checkpoint(checkpoint).eval()
    x = _input(folder)
    mirrored = model(x.flip(3)).detach()
    signed = image_gradcam(
        lambda v: F.cosine_similarity(model(v), mirrored, dim=1), x, "blur", rectify=False
    )
    torch.testing.assert_close(found.maps["image GradCAM"], signed.relu(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        found.maps["pooled"], saliency_target(signed, (4, 4)), atol=1e-4, rtol=1e-3
    )
    with torch.no_grad():
        branch = model.plugins["iadm"].branch(model.encoder.features(x).map).exp()
    torch.testing.assert_close(found.maps["iadm branch"], branch, atol=1e-5, rtol=1e-4)
    sums = found.maps["iadm branch"].sum(dim=(1, 2))
    torch.testing.assert_close(sums, torch.ones(8))


def test_a_picture_of_one_image_is_not_cut_and_says_which_maps_are_flat(
    checkpoint: Path, image_folder: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 40), (200, 60, 60)).save(tmp_path / "flat.png")
    explanation = explain(checkpoint, tmp_path / "flat.png", view=VIEW)
    figure = explanation.figure()
    FigureCanvasAgg(figure).draw()
    shown = [t for axis in figure.axes for t in [axis.title, *axis.texts]]
    shown += figure.axes[-1].findobj(Text)  # the colour bar
    texts = [t for t in shown if t.get_text()]
    assert "fraction of the maximum" in [t.get_text() for t in texts]
    for text in texts:
        box = text.get_window_extent()
        inside = figure.bbox
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1, text
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1, text
    panels = {axis.get_title(): [t.get_text() for t in axis.texts] for axis in figure.axes}
    assert panels["image GradCAM"] == panels["output Grad-CAM"] == ["0 everywhere"]
    assert panels["pooled"] == ["the same everywhere"]
    assert panels["image"] == []
    both = explain(checkpoint, [tmp_path / "flat.png", *image_folder.glob("train/class0/0.png")])
    drawn = both.figure().axes
    assert [len(axis.texts) for axis in drawn[5:10]] == [0] * 5  # an image that is not flat


def test_a_classifier_and_a_users_own_score(image_folder: Path) -> None:
    """Three ways to name one score agree; Grad-CAM is the library's own."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=5)
    folder = image_folder / "test" / "class1"
    found = explain(model, folder, class_index=2, view=LARGE)
    by_score = explain(model, folder, objective=lambda v: model(v)[:, 2], view=LARGE)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for title, values in found.maps.items():
        torch.testing.assert_close(by_score.maps[title], values)
    model.eval()
    with GradCAM(model=model, target_layers=[model.layer4]) as cam:
        theirs = cam(_input(folder, 96), targets=[ClassifierOutputTarget(2)] * 4)
    torch.testing.assert_close(found.maps["output Grad-CAM"], torch.from_numpy(theirs))
    assert theirs.std() > 0.1
    other = explain(model, folder, class_index=3, view=LARGE)
    assert (other.maps["image GradCAM"] - found.maps["image GradCAM"]).abs().max() > 0
    with pytest.raises(ValueError, match=r"`class_index` must be in \[0, classes\) .* got 5"):
        explain(model, folder, class_index=5, view=LARGE)
    with pytest.raises(ValueError, match="exclude each other"):
        explain(model, folder, class_index=1, objective=lambda v: v.mean(), view=LARGE)


def test_any_module_and_a_frozen_encoder(image_folder: Path) -> None:
    torch.manual_seed(0)
    encoder = timm.create_model("resnet18", num_classes=0).requires_grad_(False)
    probe = nn.Sequential(encoder, nn.Linear(512, 3))
    folder = image_folder / "test" / "class1"
    found = explain(probe, folder, class_index=0, view=LARGE)
    assert found.maps["output Grad-CAM"].amax(dim=(1, 2)).min() > 0.5
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    assert list(explain(plain, folder, class_index=0, view=LARGE).maps) == [
        "image GradCAM",
        "pooled",
    ]
    with_layer = explain(plain, folder, class_index=0, view=LARGE, layer=plain[1])
    assert "output Grad-CAM" in with_layer.maps


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "convnext_atto"])
def test_output_gradcam_of_other_encoders(backbone: str) -> None:
    torch.manual_seed(0)
    kwargs = {"depth": 2} if "vit" in backbone else {}
    encoder = Encoder(backbone, image_size=64, kwargs=kwargs).eval()
    images = torch.randn(2, 3, 64, 64)
    before = [torch.ones_like(p) for p in encoder.parameters()]
    for parameter, gradient in zip(encoder.parameters(), before, strict=True):
        parameter.grad = gradient
    maps = output_gradcam(encoder, lambda v: encoder(v)[:, 0], images)
    assert maps is not None
    assert maps.shape == (2, 64, 64)
    assert (
        maps.amax(dim=(1, 2)).min() > 0.5
    )  # a ViT's patches too, of which only the class token is read
    assert all(p.grad is g for p, g in zip(encoder.parameters(), before, strict=True))


def test_a_class_of_a_classifier_is_asked_for_by_name_or_number(
    image_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    """The picture is that of the Python call; another class, another picture; what is none is one line."""
    args = ["fit", "--config", "ppssl:folder/linear", "--data.root", str(image_folder)]
    small = {
        "model.backbone_kwargs": "{width: 4}",
        "model.pretrained": "false",
        "data.image_size": 32,
        "data.batch_size": 8,
        "data.num_workers": 0,
        "trainer.max_steps": 1,
        "trainer.default_root_dir": tmp_path,
    }
    assert main([*args, *(f"--{name}={value}" for name, value in small.items())]) == 0
    (path,) = tmp_path.rglob("last.ckpt")
    one = str(image_folder / "train" / "class0" / "0.png")
    for chosen, number in (("class1", 1), ("1", 1), ("0", 0)):
        out = tmp_path / f"{chosen}-{number}"
        assert main(["explain", str(path), one, "--class", chosen, "--out", str(out)]) == 0
        explain(path, one, class_index=number).save(tmp_path / f"python-{chosen}")
    pictures = {
        folder: (tmp_path / folder / "0.png").read_bytes()
        for folder in ("class1-1", "1-1", "0-0", "python-1", "python-0")
    }
    assert pictures["class1-1"] == pictures["1-1"] == pictures["python-1"]
    assert pictures["0-0"] == pictures["python-0"] != pictures["1-1"]
    capsys.readouterr()
    assert main(["explain", str(path), one, "--class", "clas1", "--out", str(tmp_path / "x")]) == 2
    assert "is not one of the" in (error := capsys.readouterr().err)
    assert "did you mean class1?" in error.replace("\n", " ")


def test_no_output_overwrites_another(checkpoint: Path, image_folder: Path, capsys: Any) -> None:
    """Files of one name in two folders, twice, into a folder that already holds such a name."""
    out = image_folder.parent / "out"
    out.mkdir()
    (out / "class0-0.png").write_text("mine")
    files = [str(image_folder / "train" / f"class{k}" / "0.png") for k in range(2)]
    for _ in range(2):
        assert main(["explain", str(checkpoint), *files, files[0], "--out", str(out)]) == 0
        assert "2 images explained" in capsys.readouterr().out
    assert (out / "class0-0.png").read_text() == "mine"
    assert sorted(p.name for p in out.iterdir()) == [
        "class0-0-2.png",
        "class0-0-3.png",
        "class0-0.png",
        "class1-0-2.png",
        "class1-0.png",
    ]
    width, height = Image.open(out / "class0-0-2.png").size
    assert width > 3 * height


def test_a_checkpoints_view_is_that_of_its_data(checkpoint: Path, image_folder: Path) -> None:
    assert View.of(checkpoint) == View(size=32, crop=0.875)
    one = image_folder / "train" / "class0" / "0.png"
    assert explain(checkpoint, one).images.shape == (1, 3, 32, 32)
    assert ppssl.explain is explain


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["{ckpt}", "{images}/train/class0/9.png"],
            "No such image or folder: .*9.png (did you mean",
        ),
        (
            ["{ckpt}", "{images}/text.jpg"],
            "Cannot read .*text.jpg: not an image in a format that Pillow reads",
        ),
        (["{ckpt}", "{images}/torn.png"], "Cannot read .*torn.png"),
        (["{ckpt}", "{images}/empty"], "No images in .*empty"),
        (["{images}/train/class0/0.png", "{images}"], "cannot be read as a checkpoint"),
        (["nowhere.ckpt", "{images}"], "No such checkpoint: nowhere.ckpt"),
        (["{foreign}", "{images}"], "is no checkpoint of ppssl"),
        (["{ckpt}", "{images}/train", "--reference", "black"], "reference"),
        (
            ["{ckpt}", "{images}/train", "--class", "wren"],
            "needs a classifier, and this PPSSL has no classes",
        ),
        (["{ckpt}"], "images"),
    ],
)
def test_bad_input_is_one_line_and_two(
    args: list[str], message: str, checkpoint: Path, image_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    import re

    (image_folder / "empty").mkdir()
    (image_folder / "text.jpg").write_text("no image")
    good = image_folder / "train" / "class0" / "0.png"
    (image_folder / "torn.png").write_bytes(good.read_bytes()[:200])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    names = {"ckpt": checkpoint, "images": image_folder, "foreign": tmp_path / "foreign.ckpt"}
    given = [arg.format(**names) for arg in args]
    assert main(["explain", *given, "--out", str(tmp_path / "out")]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("ppssl: ")]
    assert re.search(message.replace("(did", r"\(did"), line), line
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_files_and_folders(image_folder: Path, tmp_path: Path) -> None:
    single = tmp_path / "photo.png"
    shutil.copy(image_folder / "train" / "class0" / "0.png", single)
    source = image_files([single, image_folder / "test", single])
    assert len(source) == 1 + 12
    assert source.name(0) == str(single)
    assert source.load(0).mode == "RGB"
    assert source.picture_names()[:2] == ["photo", "images-test-class0-0"]
    below = image_files([image_folder / "test"]).picture_names()
    assert below == [f"class{k}-{i}" for k in range(3) for i in range(4)]
    assert image_files([single]).picture_names() == ["photo"]
    with pytest.raises(UserError, match="No images: give image files"):
        image_files([])
