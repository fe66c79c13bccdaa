import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file

from ppssl import PPSSL, FolderDataModule, LinearProbe, SyntheticDataModule
from ppssl.checkpointing.files import read_checkpoint
from ppssl.cli.main import main
from ppssl.data.synthetic.birds import ATTRIBUTE_PARTS, PARTS
from ppssl.functional import image_gradcam
from ppssl.losses.contrastive import MoCo
from ppssl.studies.bench_saliency.attributions import (
    AttributionMethod,
    select_probe_images,
    signed_attributions,
)
from ppssl.studies.bench_saliency.benchmark import _model_before, bench_saliency
from ppssl.studies.bench_saliency.foreground import grabcut
from ppssl.studies.bench_saliency.scores import TREATMENTS, map_scores, treated_maps
from reference.saliency import grid_distribution

SMALL = {"image_size": 32, "batch_size": 8, "num_workers": 0}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def _birds(num_classes: int = 4, **kwargs: Any) -> SyntheticDataModule:
    return SyntheticDataModule(
        train_size=24, test_size=16, num_classes=num_classes, render_size=48, **SMALL, **kwargs
    )


def _train(folder: Path, data: Any) -> Path:
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    model = PPSSL(**kwargs, lr=0.05, contrastive=MoCo(dim=8))
    trainer = Trainer(default_root_dir=folder, max_epochs=1, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(tmp_path_factory.mktemp("saliency"), _birds())


def _cells(mask: torch.Tensor) -> torch.Tensor:
    """``(N, 8, 8)`` to the shares of 4 x 4 cells."""
    return mask.unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean(dim=(2, 4))


def test_scores_equal_the_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    maps, control = (torch.rand(2, 5, 4, 4, generator=draw).double() for _ in range(2))
    maps = maps / maps.sum(dim=(2, 3), keepdim=True)
    mask = (torch.rand(5, 8, 8, generator=draw) > 0.7).double()
    mask[3] = 0  # not seen: does not count
    bird = (mask + mask.roll(1, 2)).clamp(max=1)
    scores = map_scores(maps, control, {"part": _cells(mask), "bird": _cells(bird)})
    energy, chance, hits = [], [], []
    for k in range(2):
        for n in (0, 1, 2, 4):
            share = [
                [float(mask[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()) for j in range(4)]
                for i in range(4)
            ]
            cells = [(i, j) for i in range(4) for j in range(4)]
            energy.append(sum(float(maps[k, n, i, j]) * share[i][j] for i, j in cells))
            chance.append(float(mask[n].mean()))
            top = max(cells, key=lambda c: float(maps[k, n, c[0], c[1]]))
            hits.append(share[top[0]][top[1]])
    assert scores["energy_part"] == pytest.approx(np.mean(energy))
    assert scores["chance_part"] == pytest.approx(np.mean(chance))
    assert scores["pointing_part"] == pytest.approx(np.mean(hits))
    assert scores["lift_part"] == pytest.approx(np.mean(energy) / np.mean(chance))
    assert scores["focus"] == pytest.approx(scores["lift_part"] / scores["lift_bird"])

    def correlation(a: Any, b: Any) -> float:
        return float(np.corrcoef(a.numpy().ravel(), b.numpy().ravel())[0, 1])

    same = [correlation(maps[0, n], maps[1, n]) for n in range(5)]
    other = [correlation(maps[0, n], maps[1, (n - 2) % 5]) for n in range(5)]
    control_too = [correlation(maps[k, n], control[k, n]) for k in range(2) for n in range(5)]
    entropy = [-sum(p * math.log(p) for p in m.flatten().tolist()) for m in maps.flatten(0, 1)]
    assert scores["reproducibility"] == pytest.approx(np.mean(same))
    assert scores["other_image"] == pytest.approx(np.mean(other))
    assert scores["like_contrast"] == pytest.approx(np.mean(control_too))
    assert scores["kl_uniform"] == pytest.approx(math.log(16) - np.mean(entropy))


def test_the_standard_error_is_the_bootstraps() -> None:
    draw = torch.Generator().manual_seed(1)
    maps = torch.rand(1, 200, 3, 3, generator=draw).expand(2, -1, -1, -1) ** 3
    maps = maps / maps.sum(dim=(2, 3), keepdim=True)
    mask = (torch.rand(200, 3, 3, generator=draw) > 0.6).float()
    mask[:, 0, 0] = 1
    energy, chance = (maps[0] * mask).sum(dim=(1, 2)).numpy(), mask.mean(dim=(1, 2)).numpy()
    drawn = np.random.default_rng(0).integers(200, size=(4000, 200))
    lifts = energy[drawn].mean(axis=1) / chance[drawn].mean(axis=1)
    scores = map_scores(maps, maps, {"part": mask})
    assert scores["lift_se_part"] == pytest.approx(lifts.std(), rel=0.05)


def test_the_mask_itself_is_perfect_and_the_uniform_map_is_chance() -> None:
    mask = torch.zeros(3, 8, 8)
    mask[0, 2:4, 4:8], mask[1, :2, :2], mask[2, 4:, :] = 1, 1, 1
    exact = treated_maps(mask.expand(2, -1, -1, -1), (4, 4), "pool_relu", "plain")
    scores = map_scores(exact, exact, {"part": _cells(mask)})
    assert scores["energy_part"] == pytest.approx(1)
    assert scores["pointing_part"] == pytest.approx(1)
    assert scores["lift_part"] == pytest.approx(1 / scores["chance_part"])
    assert scores["reproducibility"] == pytest.approx(1)
    flat = treated_maps(torch.ones(2, 3, 8, 8), (4, 4), "pool_relu", "plain")
    scores = map_scores(flat, exact, {"part": _cells(mask)})
    share = (8 + 4 + 32) / 3 / 64
    assert scores["energy_part"] == pytest.approx(share)
    assert scores["pointing_part"] == pytest.approx(share)
    assert scores["chance_part"] == pytest.approx(share)
    assert scores["lift_part"] == pytest.approx(1)
    assert scores["kl_uniform"] == pytest.approx(0, abs=1e-6)
    assert scores["reproducibility"] == scores["like_contrast"] == 0


@pytest.mark.parametrize("order", ["pool_relu", "relu_pool"])
def test_treatments(order: Any) -> None:
    signed = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    plain = treated_maps(signed, (4, 4), order, "plain")
    expected = grid_distribution(signed.flatten(0, 1), 4, 4, order, 1.0)
    torch.testing.assert_close(plain.flatten(0, 1), expected)
    sharp = treated_maps(signed, (4, 4), order, "sharpen")
    torch.testing.assert_close(sharp, plain**2 / (plain**2).sum(dim=(2, 3), keepdim=True))
    bias = expected.mean(dim=0).clamp(min=0.01 / 16)
    divided = plain / bias
    torch.testing.assert_close(
        treated_maps(signed, (4, 4), order, "debias"),
        divided / divided.sum(dim=(2, 3), keepdim=True),
    )


def test_masks_are_those_of_the_part_that_tells_classes_apart() -> None:
    data = _birds(num_classes=12, eval_crop=1.0)  # all six attributes tell a pair apart
    data.setup()
    probes = select_probe_images(data, 16)
    source: Any = data.sources["test"]
    assert probes.index.tolist() == list(range(24, 40))
    for i in range(16):
        label = int(source.labels[i])
        own, other = (source.birds[k] for k in (label, source.nearest_class(label)))
        (name,) = [n for n in ATTRIBUTE_PARTS if getattr(own, n) != getattr(other, n)]
        part = source.annotations(i)["parts"][PARTS.index(ATTRIBUTE_PARTS[name])].float()
        whole = source.annotations(i)["object"].float()
        small = [
            torch.nn.functional.interpolate(m[None, None], size=(32, 32), mode="area")[0, 0]
            for m in (part, whole)
        ]
        for mask, soft in zip(
            (probes.masks["part"][i], probes.masks["bird"][i]), small, strict=True
        ):
            assert set(mask.unique().tolist()) <= {0.0, 1.0}
            assert not ((soft > 0.8) & (mask == 0)).any()
            assert not ((soft < 0.2) & (mask == 1)).any()
    assert (probes.keys[0] != probes.keys[1]).any()


@pytest.mark.parametrize(
    ("backbone", "kwargs"),
    [
        ("resnet_small", {"width": 4}),
        ("vit_tiny_patch16_224", {"depth": 2, "global_pool": "avg", "embed_dim": 24}),
    ],
)
def test_attributions_equal_the_modules_one_by_one(backbone: str, kwargs: dict[str, Any]) -> None:
    """The image's by a function of the image, the output's by the head alone."""
    torch.manual_seed(0)
    model = PPSSL(backbone, image_size=32, backbone_kwargs=kwargs, contrastive=MoCo(dim=8))
    model.build(24)
    model.contrastive.queue.fill_at_random(torch.Generator().manual_seed(0))
    model.eval()
    data = _birds()
    data.setup()
    probes = select_probe_images(data, 3)
    signed = signed_attributions(model, probes, data.normalise)
    x, batch = data.normalise(probes.images), {"index": probes.index}

    def objective(target: str, k: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def of(images: torch.Tensor) -> torch.Tensor:
            views = [images, data.normalise(probes.keys[k])]
            result = model.contrastive(model.encoder, batch | {"views": views}, seed=0)
            return (result.z * result.key).sum(dim=1) if target == "similarity" else result.loss

        return of

    for method, maps in signed.items():
        for k in range(2):
            if method.source == "image":
                expected = image_gradcam(
                    objective(method.target, k), x, method.reference, rectify=False
                )
                torch.testing.assert_close(maps[k], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        signed[AttributionMethod("contrast", "zero", None)][0], x.abs().sum(dim=1)
    )
    features = model.encoder.features(x)
    key, _, _ = model.contrastive.keys(data.normalise(probes.keys[1]), probes.index, seed=0)
    z = torch.nn.functional.normalize(model.contrastive.head(features.embedding), dim=1)
    (gradient,) = torch.autograd.grad((z * key).sum(), features.map)
    torch.testing.assert_close(
        signed[AttributionMethod("output", None, "similarity")][1],
        (gradient * features.map).sum(dim=1).detach(),
        atol=1e-5,
        rtol=1e-4,
    )
    stages = {method.source for method in signed} - {"image", "contrast", "output"}
    assert stages == (
        {"stages.0", "stages.1"} if "resnet" in backbone else {"blocks.0", "blocks.1"}
    )


def test_command_writes_json_tables_and_figures(
    checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    args = ["bench", "saliency", "--checkpoints", str(checkpoint), str(checkpoint)]
    assert main([*args, "--images", "4", "--out", str(tmp_path)]) == 0
    assert "part/bird" in capsys.readouterr().out
    content = json.loads((tmp_path / "saliency.json").read_text())
    assert content["protocol"] == "saliency-1"
    usual = {"before": "random", "foreground": "annotated"}
    assert content["arguments"] == {"images": 4, "checkpoints": 2, "gamma": 2.0} | usual
    assert content["images_with"]["bird"] == 4
    methods = {(r["source"], r["reference"], r["target"]) for r in content["rows"]}
    targets, references = ("similarity", "loss"), ("zero", "blur", "gradient")
    assert methods == {
        *((s, None, t) for s in ("stages.0", "stages.1", "output") for t in targets),
        *(("image", r, t) for r in references for t in targets),
        *(("contrast", r, None) for r in ("zero", "blur")),
    }
    assert {r["treatment"] for r in content["rows"]} == set(TREATMENTS)
    for row in content["rows"]:
        assert row["cells"] == [4, 4] or row["resolution"] == "own"
        assert {len(v) for v in row["before"].values()} == {1}  # one random encoder for both
        first, second = row["after"]["lift_bird"]
        assert first == second > 0
    tables = (tmp_path / "saliency.md").read_text()
    assert len(re.findall(r"^## ", tables, flags=re.MULTILINE)) == 2 * len(TREATMENTS)
    assert (tmp_path / "bars.png").stat().st_size > 10_000
    assert (tmp_path / "examples.png").stat().st_size > 10_000
    assert str(checkpoint) not in (tmp_path / "saliency.json").read_text()


def test_photographs_have_the_columns_that_need_no_mask(
    image_folder: Path, checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    data = FolderDataModule(str(image_folder), **SMALL)
    benchmark = bench_saliency([checkpoint], data, images=6)
    wanted = {"reproducibility", "other_image", "like_contrast", "kl_uniform"}
    assert all(set(row["after"]) == wanted for row in benchmark.content["rows"])
    broken = image_folder / "test" / "class0" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    recipe = Path(__file__).parents[2] / "experiments" / "folder" / "pretrain.yaml"
    args = ["bench", "saliency", "--checkpoints", str(checkpoint), "--data", str(recipe)]
    args += ["--data.root", str(image_folder), "--data.image_size=32", "--data.num_workers=0"]
    assert main([*args, "--images", "4", "--out", str(tmp_path / "out")]) == 2
    assert f"Cannot read {broken}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--checkpoints", "nowhere.ckpt", "--out", "x"], "No such checkpoint: nowhere.ckpt"),
        (
            ["--checkpoints", "{ckpt}", "--out", "x", "--images", "1"],
            "`images` must be >= 2, got 1",
        ),
        (["--checkpoints", "{ckpt}", "--out", "x", "--imagse", "1"], "imagse"),
        (["--out", "x"], "checkpoints"),
    ],
)
def test_errors_are_one_line(args: list[str], message: str, checkpoint: Path, capsys: Any) -> None:
    given = [arg.format(ckpt=checkpoint) for arg in args]
    assert main(["bench", "saliency", *given]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("ppssl: ")]
    assert message in line


def test_a_classifier_has_no_loss_to_explain(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    """Be it the first checkpoint or a later one."""
    trainer = Trainer(default_root_dir=tmp_path, max_steps=1, **QUIET)
    model = LinearProbe(backbone="resnet_small", pretrained=False, backbone_kwargs={"width": 4})
    trainer.fit(model, _birds())
    trainer.save_checkpoint(tmp_path / "probe.ckpt")
    for given in ([tmp_path / "probe.ckpt"], [checkpoint, tmp_path / "probe.ckpt"]):
        args = ["--checkpoints", *map(str, given), "--out", str(tmp_path / "out")]
        assert main(["bench", "saliency", *args]) == 2
        assert "probe.ckpt is of a classifier" in capsys.readouterr().err


def test_grabcut_finds_a_bird_before_a_plain_sky() -> None:
    """A disc of two colours on a noisy ground; an image without any object has no mask."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    disc = (x - 50) ** 2 + (y - 44) ** 2 < 26**2
    image = np.full((96, 96, 3), (120, 160, 220)) + draw.normal(0, 6, (96, 96, 3))
    image[disc] = (150, 60, 30)
    image[disc & (x > 50)] = (60, 40, 20)
    plain = np.full((96, 96, 3), (120, 160, 220))
    images = torch.from_numpy(np.stack([image, plain]).clip(0, 255).astype(np.uint8))
    masks = grabcut(images.permute(0, 3, 1, 2))
    assert (masks[0].bool().numpy() == disc).mean() > 0.98
    assert masks[1].sum() == 0
    assert torch.equal(grabcut(images.permute(0, 3, 1, 2)), masks)


def test_photographs_have_an_estimated_object_and_the_weights_of_the_start(
    image_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    data = FolderDataModule(str(image_folder), **SMALL)
    start = tmp_path / "start.safetensors"
    torch.manual_seed(1)
    kwargs: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    weights = PPSSL(**kwargs, pretrained=False).encoder.model.state_dict()
    save_file({n: v.contiguous() for n, v in weights.items()}, start)
    model = PPSSL(
        **kwargs, pretrained=str(start), lr=1e-9, contrastive=MoCo(dim=8), batch_norm="frozen"
    )
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    args = [
        "--checkpoints",
        str(tmp_path / "last.ckpt"),
        "--images",
        "4",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["bench", "saliency", *args, "--before", "start", "--foreground", "grabcut"]) == 0
    content = json.loads((tmp_path / "out" / "saliency.json").read_text())
    assert content["arguments"]["before"] == "start"
    told = read_checkpoint(tmp_path / "last.ckpt")
    for pretrained in (True, False):
        found = _model_before(told, pretrained=pretrained).encoder.model.state_dict()
        assert all(torch.equal(found[n], v) for n, v in weights.items()) == pretrained
    assert "estimated by GrabCut" in (tmp_path / "out" / "saliency.md").read_text()
