"""``ppssl doctor``: each defect is named, a healthy set-up is green."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from command_line import error_line
from ppssl import AIS, PPSSL, Anchor, FolderDataModule, LossPlugin, MoCo, SimCLR, embed
from ppssl.cli.main import main
from ppssl.data.loader import default_workers
from ppssl.data.survey import Survey, survey
from ppssl.diagnosis import data_set as data_checks
from ppssl.diagnosis import installation as packages
from ppssl.diagnosis import machine as machines
from ppssl.diagnosis import settings
from ppssl.diagnosis.doctor import doctor
from ppssl.diagnosis.finding import Finding, exit_code
from ppssl.diagnosis.installation import Installation
from ppssl.diagnosis.machine import Demand, Gpu, Machine
from ppssl.diagnosis.settings import Plan
from ppssl.diagnosis.trial import Trial, check_trial, try_steps
from ppssl.losses.iadm.plugin import IADM
from ppssl.studies.lightning_cli import build_recipe

A100, T4 = Gpu("A100", 40_000_000_000, bf16=True), Gpu("T4", 16_000_000_000, bf16=False)
CPU = Machine(8, 16_000_000_000, 10**12, 10**10, 4096, cuda_build=False)
ON_A100 = replace(CPU, gpus=(A100,), has_driver=True, cuda_build=True)
BATCH = 2 * 128 * 3 * 224**2
RUN = Demand(
    on_gpu=False, precision="32-true", workers=4, prefetch=2, batch=BATCH, checkpoints=10**9
)
ON_GPU = replace(RUN, on_gpu=True, precision="bf16-mixed")
PLAN = Plan(images=10_000, batch=128, steps=7800)
VERSIONS = {"torch": "2.14.0", "torchvision": "0.29.0", "timm": "1.0.31"}
FITS = Installation(VERSIONS, {"ppssl": ["torch>=2.11", "timm"], "torchvision": ["torch==2.14.0"]})


def write(file: Path, seed: int, *, size: tuple[int, int] = (48, 40)) -> None:
    """An image of blocks of random colours, like no other of another seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize(size, Image.Resampling.BILINEAR).save(file)


def make_images(root: Path, train: int = 40, test: int = 4) -> Path:
    """Class folders: three classes of ``train`` and ``test`` images."""
    for s, (split, count) in enumerate({"train": train, "test": test}.items()):
        for label in range(3):
            for i in range(count):
                write(
                    root / split / f"class{label}" / f"{i:02d}.png", 10_000 * s + 1000 * label + i
                )
    return root


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy data set; not to be changed."""
    return make_images(tmp_path_factory.mktemp("healthy") / "images")


@pytest.fixture
def images(healthy: Path, tmp_path: Path) -> Path:
    """A copy of the healthy data set."""
    shutil.copytree(healthy, tmp_path / "images")
    return tmp_path / "images"


def look(root: Path, **options: Any) -> Survey:
    """A survey of all images of a folder."""
    return survey(FolderDataModule(str(root), **{"image_size": 32, "batch_size": 8} | options))


def model(**options: Any) -> PPSSL:
    """A tiny model; a Trainer would build the rest."""
    return PPSSL("resnet_small", backbone_kwargs={"width": 4}, **options)


# -- defects of data sets: what is done to the folder, and what is found then -------------------------------------


def broken(root: Path) -> list[Finding]:
    file = root / "train" / "class1" / "05.png"
    file.write_bytes(file.read_bytes()[:200])
    return data_checks.check_broken(look(root))


def broken_and_skipped(root: Path) -> list[Finding]:
    (root / "train" / "class1" / "05.png").write_bytes(b"")
    return data_checks.check_broken(look(root, on_error="skip"))


def leakage(root: Path) -> list[Finding]:
    shutil.copy(root / "train" / "class0" / "07.png", root / "test" / "class0" / "again.png")
    return data_checks.check_shared(look(root))


def resized_leakage(root: Path) -> list[Finding]:
    image = Image.open(root / "train" / "class0" / "07.png")
    image.resize((60, 50)).save(root / "test" / "class0" / "again.jpg", quality=90)
    return data_checks.check_shared(look(root))


def copies(root: Path) -> list[Finding]:
    shutil.copy(root / "train" / "class0" / "07.png", root / "train" / "class0" / "again.png")
    return data_checks.check_duplicates(look(root))


def two_labels(root: Path) -> list[Finding]:
    shutil.copy(root / "train" / "class0" / "07.png", root / "train" / "class2" / "again.png")
    return data_checks.check_two_labels(look(root))


def one_of_a_class(root: Path) -> list[Finding]:
    write(root / "train" / "lonely" / "0.png", 99)
    return data_checks.check_class_sizes(look(root))


def one_class(root: Path) -> list[Finding]:
    for name in ("class1", "class2"):
        shutil.rmtree(root / "train" / name)
        shutil.rmtree(root / "test" / name)
    return data_checks.check_class_sizes(look(root))


def uneven(root: Path) -> list[Finding]:
    for i in range(120):
        write(root / "train" / "class0" / f"more{i}.png", 50_000 + i, size=(8, 8))
    for file in sorted((root / "train" / "class1").iterdir())[2:]:
        file.unlink()
    return data_checks.check_class_sizes(look(root))


def unseen_class(root: Path) -> list[Finding]:
    """Folders are refused then; other data sets are not."""
    seen = look(root)
    unlabelled = (seen.splits == "train") & (seen.labels == 2)
    return data_checks.check_test_classes(
        replace(seen, labels=np.where(unlabelled, -1, seen.labels))
    )


def too_small(root: Path) -> list[Finding]:
    for i in range(30):
        write(root / "train" / "class0" / f"small{i}.png", 50_000 + i, size=(20, 20))
    return data_checks.check_sizes(look(root))


def smaller_than_the_view(root: Path) -> list[Finding]:
    return data_checks.check_sizes(look(root, image_size=64))


def too_large(root: Path) -> list[Finding]:
    return data_checks.check_sizes(look(root, image_size=3))


def stripes(root: Path) -> list[Finding]:
    for i in range(30):
        write(root / "train" / "class0" / f"long{i}.png", 50_000 + i, size=(300, 40))
    return data_checks.check_sizes(look(root))


def unknown_format(root: Path) -> list[Finding]:
    (root / "train" / "class0" / "photo.heic").write_bytes(b"x")
    return data_checks.check_passed_over(look(root))


def empty_class(root: Path) -> list[Finding]:
    (root / "train" / "nothing").mkdir()
    return data_checks.check_passed_over(look(root))


def blank(root: Path) -> list[Finding]:
    Image.new("RGB", (48, 40), (10, 20, 30)).save(root / "train" / "class0" / "blank.png")
    return data_checks.check_blank(look(root))


def spelling(root: Path) -> list[Finding]:
    for split in ("train", "test"):
        shutil.move(root / split / "class2", root / split / "Class_1")
    return data_checks.check_class_names(look(root))


def few_images(root: Path) -> list[Finding]:
    for file in root.glob("train/*/[123]*.png"):
        file.unlink()
    return data_checks.check_count(look(root))


def wrong_label(root: Path) -> list[Finding]:
    """Colours of a class; one image is in the folder of another."""
    for file in root.rglob("*.png"):
        pixels = np.asarray(Image.open(file)) // 6
        pixels[..., int(file.parent.name[-1])] += 200
        Image.fromarray(pixels).save(file)
    shutil.move(root / "train" / "class0" / "07.png", root / "train" / "class2" / "wrong.png")
    seen = look(root)
    torch.manual_seed(0)
    embed(model(), seen.data, root.parent / "all.parquet", device="cpu")
    return data_checks.check_doubtful(seen, root.parent / "all.parquet")


def no_folder(root: Path) -> list[Finding]:
    diagnosis = doctor(overrides=[f"--data.root={root.parent / 'image'}"])
    return diagnosis.findings["data"]


def scale_of_bytes(root: Path) -> list[Finding]:
    mean, std = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
    return settings.check_normalisation(look(root), mean, std)


def nearly_black(root: Path) -> list[Finding]:
    for file in root.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(file)) // 60).save(file)
    info = model().encoder.info
    return settings.check_normalisation(look(root), info.mean, info.std)


IN_DATA: dict[Callable[[Path], list[Finding]], tuple[str, str]] = {
    broken: ("problem", r"readable: 1 of 132 .*05\.png \(.*truncated"),
    broken_and_skipped: ("warning", r"readable: 1 of .*05\.png \(the file is empty\)"),
    leakage: ("problem", r"splits: .* 1 equal, 0 nearly so: .*train/class0/07\.png = .*again\.png"),
    resized_leakage: ("warning", r"splits: .* 0 equal, 1 nearly so: .*07\.png = .*again\.jpg"),
    copies: ("warning", r"duplicates: .* 1 equal, 0 nearly so: .*07\.png = .*again\.png"),
    two_labels: ("warning", r"labels: 1 images .*again\.png \(class0 and class2\)"),
    one_of_a_class: ("warning", "classes: 1 with one image: lonely"),
    one_class: ("warning", "classes: 1 of 40 to 40.* -> Labels of one class"),
    uneven: ("warning", "classes: very uneven: 3 of 2 to 160"),
    unseen_class: ("problem", "test classes: 1 classes .*: class2"),
    too_small: ("warning", "image sizes: 19 % are smaller than a view.* -> Use larger originals"),
    smaller_than_the_view: (
        "warning",
        r"image sizes: 100 % are smaller .* -> Lower `data.image_size` \(to 40\), or use larger",
    ),
    too_large: ("warning", "image sizes: much larger than a view: short sides of 40"),
    stripes: ("warning", "image sizes: 19 % are longer than 4 to 1"),
    unknown_format: ("warning", r"passed over: 1 \.heic \(class0/photo\.heic\)"),
    empty_class: ("warning", r"passed over: 1 folders without images \(nothing\)"),
    blank: ("warning", r"blank images: 1 .*blank\.png"),
    spelling: ("warning", "class names: `Class_1` and `class1`"),
    few_images: ("warning", "images: train 30"),
    wrong_label: ("warning", r"doubtful labels: .*wrong\.png: `class2`, .* are `class0`"),
    no_folder: ("problem", r"not a folder: .*image \(did you mean images\?\)"),
    scale_of_bytes: ("problem", r"normalisation: mean \(123\.7"),
    nearly_black: ("warning", "normalisation: images have mean .* standard deviation 0.0"),
}

# -- defects of machines, installations and settings ----------------------------------------------------------------

HUGE = replace(RUN, checkpoints=2 * 10**12)
ELSEWHERE: dict[str, tuple[Callable[[], list[Finding]], str, str]] = {
    "no disk": (
        lambda: machines.check_disk(replace(CPU, disk=10**6), 10**9),
        "problem",
        "disk: 1 MB free, the run keeps 1.0 GB",
    ),
    "a disk that is nearly full": (
        lambda: machines.check_machine(CPU, replace(RUN, checkpoints=6 * 10**11)),
        "warning",
        "disk: 1000.0 GB free",
    ),
    "/dev/shm of 64 MB": (
        lambda: machines.check_shared_memory(replace(CPU, shared_memory=64 * 2**20), RUN),
        "problem",
        "shared memory: 67 MB .*--shm-size",
    ),
    "a GPU without bf16": (
        lambda: machines.check_precision(replace(ON_A100, gpus=(T4,)), ON_GPU),
        "problem",
        "precision: bf16-mixed on T4.*`16-mixed`",
    ),
    "a precision that does not pay": (
        lambda: machines.check_precision(ON_A100, replace(ON_GPU, precision="32-true")),
        "warning",
        "precision: 32-true on A100.*`bf16-mixed`",
    ),
    "fp16 on a CPU": (
        lambda: machines.check_precision(CPU, replace(RUN, precision="16-mixed")),
        "warning",
        "precision: 16-mixed on a CPU",
    ),
    "a torch without CUDA": (
        lambda: machines.check_device(replace(CPU, has_driver=True), RUN),
        "problem",
        "device: .*without CUDA",
    ),
    "a driver that does not fit": (
        lambda: machines.check_device(replace(ON_A100, gpus=()), RUN),
        "problem",
        "device: a driver of NVIDIA, and no GPU.*nvidia-smi",
    ),
    "a GPU that is not used": (
        lambda: machines.check_device(ON_A100, RUN),
        "warning",
        "device: the run is on the CPU, and there is A100",
    ),
    "few open files": (
        lambda: machines.check_open_files(replace(CPU, open_files=256), 4, 2),
        "problem",
        "open files: at most 256.*ulimit -n",
    ),
    "more workers than cores": (
        lambda: machines.check_workers(CPU, 64),
        "warning",
        "workers: 64 .* 8 cores.* to 7",
    ),
    "no workers": (
        lambda: machines.check_workers(CPU, 0),
        "warning",
        "workers: 0 .*without workers",
    ),
    "little memory": (
        lambda: machines.check_memory(replace(CPU, memory=10**9)),
        "warning",
        "memory: 1.0 GB available",
    ),
    "an old torch": (
        lambda: packages.check_versions(
            Installation({"torch": "2.9.1"}, {"ppssl": ["torch>=2.11"]})
        ),
        "problem",
        "versions: ppssl needs torch>=2.11, and 2.9.1 is installed",
    ),
    "a torchvision of another torch": (
        lambda: packages.check_versions(replace(FITS, versions=VERSIONS | {"torch": "2.15.0"})),
        "problem",
        r"versions: torchvision needs torch==2\.14\.0, and 2\.15\.0",
    ),
    "a missing library": (
        lambda: packages.check_versions(Installation({"torch": "2.14.0"}, FITS.requirements)),
        "problem",
        "versions: ppssl needs timm, and it is not installed.*pip install 'timm'",
    ),
    "two OpenCVs": (
        lambda: packages.check_clashes(
            Installation(dict.fromkeys(("opencv-python", "opencv-python-headless"), "4.10"), {})
        ),
        "warning",
        "packages: opencv-python beside opencv-python-headless",
    ),
    "a batch larger than the data": (
        lambda: settings.check_batch(model(), replace(PLAN, images=100)),
        "problem",
        "batch: 128 of 100 .*`data.batch_size` to 32",
    ),
    "few negatives": (
        lambda: settings.check_settings(model(contrastive=SimCLR()), replace(PLAN, batch=16)),
        "warning",
        "batch: 16 .*SimCLR has few negatives",
    ),
    "a batch for no batch norm": (
        lambda: settings.check_batch(model(), replace(PLAN, batch=4)),
        "warning",
        "batch: 4 .*batch norm estimates from few images",
    ),
    "a run without an end": (
        lambda: settings.check_settings(model(), replace(PLAN, steps=None)),
        "problem",
        "steps: the run has no end",
    ),
    "no step": (
        lambda: settings.check_settings(model(), replace(PLAN, steps=0)),
        "problem",
        "steps: the run takes no step .*`trainer.max_steps`",
    ),
    "few steps": (
        lambda: settings.check_steps(replace(PLAN, steps=78)),
        "warning",
        "steps: 78 .*1.0 passes",
    ),
    "a rate too high": (
        lambda: settings.check_learning_rate(model(lr=50.0), PLAN),
        "problem",
        "learning rate: 50 for sgd .* usual is 0.03",
    ),
    "a high rate for AdamW": (
        lambda: settings.check_learning_rate(model(optimizer="adamw", lr=0.03), PLAN),
        "warning",
        "learning rate: 0.03 for adamw .* usual is 0.002",
    ),
    "a rate too low": (
        lambda: settings.check_learning_rate(model(lr=1e-5), PLAN),
        "warning",
        "learning rate: 1e-05 .*little is learned",
    ),
    "heads in a run too short for its schedule": (
        lambda: settings.check_schedule(model(encoder_start=0.1), 150),
        "warning",
        "schedule: encoder from step 15 on.*heads are random",
    ),
    "a schedule without training": (
        lambda: settings.check_schedule(model(encoder_start=0.5, warmup_fraction=0.45), 7800),
        "problem",
        "schedule: .*the encoder is hardly trained",
    ),
    "a queue larger than the data": (
        lambda: settings.check_queue(MoCo(queue_size=65_536), PLAN),
        "warning",
        "queue: 65,536 keys, 10,000 images",
    ),
    "a queue smaller than a batch": (
        lambda: settings.check_queue(MoCo(queue_size=64), PLAN),
        "warning",
        "queue: 64 keys.*less than one batch",
    ),
    "a momentum too slow for the run": (
        lambda: settings.check_momentum(MoCo(momentum=0.9999), 7800),
        "warning",
        "momentum: 0.9999, a time of 10,000 of 7,800 steps",
    ),
    "a momentum too fast for a queue": (
        lambda: settings.check_momentum(MoCo(momentum=0.5), 7800),
        "warning",
        "momentum: 0.5.*age too fast",
    ),
    "a temperature too low": (
        lambda: settings.check_temperature(MoCo(temperature=0.001)),
        "warning",
        "temperature: 0.001.*only the nearest",
    ),
    "a temperature too high": (
        lambda: settings.check_temperature(MoCo(temperature=5.0)),
        "warning",
        "temperature: 5.0.*count alike",
    ),
    "a plugin whose part is too short": (
        lambda: settings.check_plugins(model(plugins={"iadm": IADM()}), 200),
        "warning",
        "plugin iadm: 36 steps at its full weight",
    ),
    "a plugin of weight 0": (
        lambda: settings.check_plugins(model(plugins={"iadm": IADM(loss_weight=0)}), 7800),
        "warning",
        "plugin iadm: its weight is 0",
    ),
    "a loss that is NaN": (
        lambda: tried(losses=[5.0, np.nan]),
        "problem",
        "loss: the loss is nan after 2 steps",
    ),
    "steps that wait for data": (
        lambda: tried(waiting=[0.5] * 10),
        "warning",
        r"step: 1 s \(128 images per second\), 50 % .*`data.num_workers`",
    ),
    "a run as short as the warm-up of the trial": (
        lambda: tried(seconds=[], waiting=[], losses=[5.0, 4.9]),
        "warning",
        "step: the run is over after 2 steps, before one could be timed",
    ),
    "a run of months": (lambda: tried(seconds=[900.0] * 10), "warning", "whole run: 81.2 days"),
    "more memory than there is": (
        lambda: tried(memory=200 * 10**9),
        "warning",
        "memory of the run: 200.0 GB",
    ),
}


def tried(**measured: Any) -> list[Finding]:
    """What is said of a trial of steps of a second."""
    times = {"seconds": [1.0] * 10, "waiting": [0.01] * 10, "losses": [5.0] * 12, "memory": 10**9}
    return check_trial(Trial(**times | measured), PLAN, CPU, workers=4, on_gpu=False)


def assert_named(findings: list[Finding], level: str, pattern: str) -> None:
    """The defect is named at this level, with what to do, and nothing else is wrong."""
    wrong = [finding for finding in findings if finding.level != "ok"]
    assert [finding.level for finding in wrong] == [level], findings
    (found,) = wrong
    assert re.search(pattern, f"{found.what}: {found.value} -> {found.advice}"), found


@pytest.mark.parametrize("defect", IN_DATA, ids=lambda defect: defect.__name__)
def test_a_defect_of_the_data_is_named(
    defect: Callable[[Path], list[Finding]], images: Path
) -> None:
    assert_named(defect(images), *IN_DATA[defect])


@pytest.mark.parametrize("name", ELSEWHERE)
def test_another_defect_is_named(name: str) -> None:
    check, level, pattern = ELSEWHERE[name]
    assert_named(check(), level, pattern)


@pytest.mark.parametrize(
    ("size", "turned", "ratio"),
    [((95, 50), 1, "1.90"), ((50, 95), 1, "0.53"), ((95, 50), 6, "0.53"), ((72, 48), 1, None)],
)
def test_long_images_are_told_of_squashing(
    size: tuple[int, int], turned: int, ratio: str | None, images: Path
) -> None:
    """Upright, as EXIF says. It is no defect: the line is green."""
    exif = Image.Exif()
    exif[0x0112] = turned
    for i, file in enumerate(sorted(images.rglob("*.png"))):
        write(file, i, size=size)
        Image.open(file).save(file, exif=exif)
    found = data_checks.check_shape(look(images))
    if ratio is None:
        assert found == []
        return
    assert exit_code(found) == 0
    assert f"width / height {ratio}" in found[0].value
    assert "`--data.squash=true`" in found[0].advice
    assert data_checks.check_shape(look(images, squash=True)) == []


def test_squashed_images_are_no_stripes(images: Path) -> None:
    assert stripes(images)[0].level == "warning"
    squashed = data_checks.check_sizes(look(images, squash=True))
    assert [finding.level for finding in squashed] == ["ok"]
    assert "short sides of 44 to 110 pixels" in squashed[0].value


def test_healthy_machines_data_and_settings_are_green(healthy: Path) -> None:
    seen, trained = look(healthy), model(plugins={"iadm": IADM()})
    info = trained.encoder.info
    findings = [
        *machines.check_machine(CPU, RUN),
        *machines.check_machine(ON_A100, ON_GPU),
        *packages.check_installation(FITS),
        *data_checks.check_data(seen),
        *settings.check_settings(trained, PLAN),
        *settings.check_settings(model(contrastive=SimCLR(), optimizer="lars"), PLAN),
        *settings.check_normalisation(seen, info.mean, info.std),
        *tried(),
    ]
    assert [finding for finding in findings if finding.level != "ok" or finding.advice] == []
    assert len(findings) > 35
    assert exit_code(findings) == 0


@pytest.mark.parametrize("name", ["photos", "cub", "cars", "aircraft"])
def test_the_recipes_for_pretrained_weights_are_green(name: str) -> None:
    options = ["--model.pretrained=false", "--data.root=unused", "--trainer.logger=false"]
    built = build_recipe(f"ppssl:{name}/pretrain", options)
    built.model.pretrained = True  # without reading them
    plan = Plan(images=5994, batch=64, steps=1860)
    findings = settings.check_settings(built.model, plan)
    assert [finding for finding in findings if finding.level != "ok"] == []


def test_the_trial_embeds_no_image_for_a_bank(healthy: Path, tmp_path: Path, banks: Path) -> None:
    """Which may take hours: plugins that need one are named and left out."""
    plugins: dict[str, LossPlugin] = {"anchor": Anchor(), "view": Anchor(image_size=None)}
    plugins["ais"] = AIS("birds", teacher=str(tmp_path / "no teacher"))
    trainer = Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False)
    data = FolderDataModule(str(healthy), image_size=32, batch_size=8)
    trial = try_steps(trainer, model(batch_norm="frozen", plugins=plugins), data, steps=2)
    assert trial.left_out == ["anchor", "ais"]
    assert not banks.exists()
    findings = check_trial(trial, PLAN, CPU, workers=4, on_gpu=False)
    (said,) = [finding for finding in findings if finding.what == "plugins"]
    assert (said.level, said.value[:11]) == ("ok", "anchor, ais")


def test_the_command_on_a_healthy_run_is_green(
    healthy: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    written = tmp_path / "doctor.json"
    options = ["--config", "ppssl:folder/pretrain", "--data.root", str(healthy)]
    options += ["--data.image_size=32", "--data.batch_size=8", "--model.backbone_kwargs={width: 4}"]
    options += ["--model.contrastive.momentum=auto", "--trainer.max_epochs=100", "--steps", "3"]
    options += ["--data.augmentation.local_crops=2", "--data.augmentation.local_size=16"]
    code = main(["doctor", *options, "--json", str(written)])
    content = json.loads(written.read_text())
    assert [f for f in content["findings"] if f["level"] != "ok"] == []
    assert code == content["exit_code"] == 0
    areas = list(dict.fromkeys(finding["area"] for finding in content["findings"]))
    assert areas == ["installation", "machine", "data", "settings", "trial"]
    need = 256 + 2 * default_workers() * 2 * 10  # tensors of a batch of four views
    for finding in content["findings"]:
        if finding["what"] == "open files":
            assert f"needs about {need:,}" in finding["value"]
    assert len(content["trial"]["seconds"]) == 3
    assert len(content["trial"]["losses"]) == 5
    shown = capsys.readouterr().out
    assert "ok       splits: share no image" in shown
    assert "whole run" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]  # the trial writes nothing


@pytest.mark.parametrize(("option", "code"), [("max_steps=1", 1), ("limit_train_batches=0", 2)])
def test_a_short_run_is_amber_and_one_without_a_step_red(
    option: str, code: int, healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [f"--trainer.{option}", f"--data.root={healthy}", "--data.image_size=32"]
    options += ["--data.batch_size=8", "--model.backbone_kwargs={width: 4}"]
    options += ["--trainer.accelerator=cpu", "--data.num_workers=0"]
    diagnosis = doctor("ppssl:folder/pretrain", options)
    found = [f for area in ("settings", "trial") for f in diagnosis.findings.get(area, [])]
    red = [finding.what for finding in found if finding.level == "problem"]
    assert (exit_code(found), red) == (code, ["steps"] if code == 2 else [])
    assert ("trial" in diagnosis.findings) == (code == 1)


def test_the_command_on_defects_tells_what_to_do(
    images: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    leakage(images)
    code = main(["doctor", f"--data.root={images}", "--data.batch_size=500"])
    assert code == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "problem splits: images in two splits: 1 equal" in shown
    assert "-> Remove them from one split; `ppssl duplicates` shows all." in shown
    assert "problem batch: 500 of 120 training images" in shown
    assert "Trial" not in shown  # it could only fail


def test_the_command_without_a_run_looks_at_the_machine(capsys: Any) -> None:
    assert main(["doctor"]) in (0, 1, 2)  # of this machine
    shown = capsys.readouterr().out
    assert "Machine" in shown
    assert "versions: torch" in shown
    assert "Data" not in shown


def test_a_wrong_option_is_named(capsys: Any) -> None:
    assert main(["doctor", "--data.rot=x"]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "problem settings: `rot` is not an option of ppssl.data.FolderDataModule (did you mean root?)"
        in shown
    )
    assert main(["doctor", "--data.root"]) == 2
    assert "`--data.root` needs a value" in error_line(capsys)
