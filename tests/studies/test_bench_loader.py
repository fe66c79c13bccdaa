import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from command_line import error_line
from ppssl import FolderDataModule, SyntheticDataModule
from ppssl.cli.main import main
from ppssl.studies.bench_loader.benchmark import bench_loader, with_moco_v2_views
from ppssl.studies.bench_loader.figures import to_pixels
from ppssl.studies.bench_loader.parameters import (
    PARAMETERS,
    our_parameters,
    torchvision_parameters,
)
from ppssl.studies.bench_loader.photographs import parse_size, write_photographs
from ppssl.studies.bench_loader.pipelines import make_pipelines

PIPELINES = {
    "ppssl",
    "ppssl, normalised",
    "torchvision",
    "torchvision v2",
    "decode",
    "decode, reduced",
}
FAST = ["--image-size", "32", "--images", "4", "--repeats", "1"]


def test_json_has_rates_and_ratios(image_folder: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "loader.json"
    args = ["bench", "loader", "--data.root", str(image_folder), *FAST, "--workers", "1"]
    assert main([*args, "--batch-size", "8", "--json", str(path)]) == 0
    assert "torchvision v2" in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert set(content["images_per_second"]) - {"lightly"} == PIPELINES
    for rate in content["images_per_second"].values():
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
    ratios = {name for name in content["ratios"] if "lightly" not in name}
    assert ratios == {f"{name}/torchvision" for name in PIPELINES - {"torchvision"}}
    assert content["original_size"] == [48, 40]
    assert content["arguments"] == {"image_size": 32, "images": 4, "repeats": 1}
    assert content["all_cores"]["workers"] == 1
    assert content["all_cores"]["batch_size"] == 8
    assert content["all_cores"]["images_per_second"]["median"] > 0
    assert str(image_folder) not in path.read_text()


def test_lightly_is_compared_where_it_is_installed(image_folder: Path) -> None:
    pytest.importorskip("lightly")
    results = bench_loader(FolderDataModule(str(image_folder)), 32, images=2, repeats=1, workers=0)
    assert {"lightly/torchvision", "ppssl/lightly"} <= set(results["ratios"])
    assert results["all_cores"] is None


@pytest.mark.slow
def test_made_up_photographs_and_pictures(tmp_path: Path) -> None:
    picture = tmp_path / "figures" / "views.png"
    args = ["bench", "loader", "--make", "60x45", *FAST, "--workers", "0"]
    assert main([*args, "--picture", str(picture)]) == 0
    for path in (picture, picture.with_name("views-parameters.png")):
        assert path.stat().st_size > 10_000


def test_a_recipe_names_the_data(image_folder: Path, tmp_path: Path) -> None:
    recipe, path = Path(__file__).parents[2] / "experiments/folder/pretrain.yaml", tmp_path / "j"
    args = ["bench", "loader", "--data", str(recipe), "--data.root", str(image_folder)]
    assert main([*args, *FAST, "--workers", "0", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["ratios"]["ppssl/torchvision"] > 0


def test_the_data_module_is_left_as_it_is(image_folder: Path) -> None:
    data = FolderDataModule(str(image_folder), image_size=64, batch_size=8, num_workers=3)
    data.setup()
    views = with_moco_v2_views(data, 32)
    assert (views.image_size, views.batch_size, views.num_workers) == (32, 1, 0)
    assert (data.image_size, data.batch_size, data.num_workers) == (64, 8, 3)


@pytest.mark.parametrize("squash", [False, True])
def test_every_pipeline_makes_two_views(squash: bool, image_folder: Path) -> None:
    data = with_moco_v2_views(FolderDataModule(str(image_folder), squash=squash), 32)
    for name, pipeline in make_pipelines(data).items():
        result = pipeline(3)
        if "decode" in name:
            assert [image.size for image in result] == [(44, 44) if squash else (48, 40)]
            continue
        assert len(result) == 2
        for view in result:
            assert view.shape[-3:] == (3, 32, 32)
            assert view.dtype == (torch.uint8 if name == "ppssl" else torch.float32)
        assert not torch.equal(result[0], result[1])
        assert not torch.equal(result[0], pipeline(3)[0])  # a new draw in each call


def test_our_views_look_like_torchvisions() -> None:
    """Mean and standard deviation of each channel over the views of 64 images, in [0, 1]."""
    torch.manual_seed(0)
    random.seed(0)
    data = with_moco_v2_views(SyntheticDataModule(train_size=64, test_size=2, render_size=96), 112)
    pipelines = make_pipelines(data)
    statistics = {}
    for name in ("ppssl", "torchvision"):
        views = [to_pixels(v) for _ in range(3) for i in range(64) for v in pipelines[name](i)]
        pixels = torch.stack(views).float() / 255  # (384, 3, 112, 112)
        statistics[name] = {
            "mean": pixels.mean(dim=(0, 2, 3)),
            "std": pixels.std(dim=(0, 2, 3)),
            "std within a view": pixels.std(dim=(2, 3)).mean(dim=0),
            "std of a view's mean": pixels.mean(dim=(2, 3)).std(dim=0),
            "colourfulness": (pixels.amax(dim=1) - pixels.amin(dim=1)).mean(),
        }
    ours, theirs = statistics["ppssl"], statistics["torchvision"]
    for key, expected in theirs.items():
        torch.testing.assert_close(
            ours[key], expected, atol=0.02, rtol=0, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_our_random_parameters_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    sizes, count = [(500, 375), (375, 500), (640, 480)], 3000
    ours = our_parameters(sizes, 112, count)
    theirs = torchvision_parameters(sizes, 112, count)
    assert set(ours) == set(theirs) == set(PARAMETERS)
    for name in PARAMETERS:
        assert ks_2samp(ours[name], theirs[name]).pvalue > 1e-3, name
    assert len(ours["hue"]) / count == pytest.approx(0.8, abs=0.03)
    assert len(ours["blur"]) / count == pytest.approx(0.5, abs=0.03)


def test_photographs_have_size_and_number(tmp_path: Path) -> None:
    write_photographs(tmp_path / "images", 40, (160, 90))
    paths = sorted((tmp_path / "images").iterdir())
    assert len(paths) == 40
    images = [np.asarray(Image.open(path)) for path in paths]
    assert {image.shape for image in images} == {(90, 160, 3)}
    assert not np.array_equal(images[0], images[32])  # a rotated copy
    assert all(image.std() > 10 for image in images)


@pytest.mark.parametrize("text", ["500", "500x", "x3", "0x5", "5x-1", "axb", "5²x3"])
def test_a_wrong_size_is_one_line(text: str, capsys: Any) -> None:
    assert main(["bench", "loader", f"--make={text}"]) == 2
    assert "`make` must be WIDTHxHEIGHT in pixels, such as 500x375" in error_line(capsys)


def test_sizes() -> None:
    assert parse_size("500x375") == (500, 375)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Give images by `--data.root DIR`"),
        (["--data.root", "{images}", "--make", "5x5"], "Give images by `--data.root DIR`"),
        (["--data.root", "nowhere"], "nowhere"),
        (["--data.root", "{images}", "--images", "0"], "`images` must be >= 1, got 0"),
        (["--data.root", "{images}", "--image-size", "0"], "`image_size` must be >= 1, got 0"),
        (["--data.root", "{images}", "--workers", "-1"], "`workers` must be >= 0, got -1"),
        (["--data.root", "{images}", "--repeat", "1", "--imags=3"], "imags"),
    ],
)
def test_errors_are_one_line(
    args: list[str], message: str, image_folder: Path, capsys: Any
) -> None:
    given = [arg.format(images=image_folder) for arg in args]
    assert main(["bench", "loader", *given]) == 2
    assert message in error_line(capsys)


def test_an_unreadable_image_is_one_line(image_folder: Path, capsys: Any) -> None:
    broken = image_folder / "train" / "class0" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert main(["bench", "loader", "--data.root", str(image_folder), *FAST]) == 2
    assert f"Cannot read {broken}" in error_line(capsys)
