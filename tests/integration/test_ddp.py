"""Two and four processes (gloo) train as one with the same global batch, where no batch norm looks at it."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from parallel_runs import NORMS, PLUGINS, QUEUE, SMALL, main
from ppssl import PPSSL
from ppssl.losses.contrastive import MoCo
from processes import TESTS, finish, start
from tiny import tiny_clip

TRAIN, VAL = 27, 9
"""Neither fills whole batches of 8, nor shares of 2 or 4 processes."""

Runs = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs with so many processes, made when they are first asked for: the folder of what they saved."""
    out = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for i in range(count):
            folder = out / "images" / split / f"class{i % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 48, 3)) // 2 + np.eye(3, dtype=int)[i % 3] * 80
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    teacher = tiny_clip(out / "clip")
    asked = set()

    def ask(devices: int, plugins: str = "full") -> Path:
        together = ["full"] if plugins == "full" else [p for p in PLUGINS if p != "full"]
        if (devices, *together) not in asked:
            asked.add((devices, *together))
            if devices == 1:  # no start of a process, which takes the time
                main(str(out / "images"), str(out), 1, str(teacher), together)
            else:
                script = [sys.executable, TESTS / "parallel_runs.py", out / "images", out, devices]
                finish(start([*script, teacher, *together]))
        return out

    return ask


pytestmark = pytest.mark.timeout(900)

several = pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])


def test_collectives_in_a_step(runs: Runs) -> None:
    """Two with statistics of the batch, one without; one more where IADM keeps a running mean and A* is due."""
    for norm in NORMS:
        counts = torch.load(runs(2) / f"{norm}-full-2.pt", weights_only=True)["collectives"]
        assert set(counts) == {1, 2}, norm
    assert set(_apart(runs, 2, "collectives")[0]) == {2}


@several
@pytest.mark.parametrize(
    "plugins", [p if p == "full" else pytest.param(p, marks=pytest.mark.slow) for p in PLUGINS]
)
@pytest.mark.parametrize("norm", NORMS)
def test_several_processes_are_one(norm: str, plugins: str, devices: int, runs: Runs) -> None:
    one, other = (
        torch.load(runs(n, plugins) / f"{norm}-{plugins}-{n}.pt", weights_only=True)
        for n in (1, devices)
    )
    assert len(one["loss"]) == 6
    assert "val/retrieval_map" in one["metrics"]
    assert ("train/ais_corpus_in_use" in one["metrics"]) == (plugins in ("ais", "full"))
    assert set(one["gradients"]) >= {"0/contrastive.head.0.weight", "5/contrastive.head.0.weight"}
    for part in ("loss", "gradients", "metrics", "state"):
        assert one[part].keys() == other[part].keys()
        for name, value in one[part].items():
            torch.testing.assert_close(other[part][name], value, atol=1e-5, rtol=1e-5, msg=name)
    for name in ("index", "position", "filled"):
        queue = f"contrastive.queue.{name}"
        assert one["state"][queue].equal(other["state"][queue])


@several
def test_padding_is_dropped_in_metrics(devices: int, runs: Runs) -> None:
    def padded(count: int) -> int:
        return -(-count // devices) * devices

    one, other = (
        torch.load(runs(n) / f"none-full-{n}.pt", weights_only=True)["rows"] for n in (1, devices)
    )
    assert one == [(VAL, VAL), (TRAIN, TRAIN)]
    assert other == [(padded(VAL), VAL), (padded(TRAIN), TRAIN)]
    assert padded(VAL) > VAL
    assert padded(TRAIN) > TRAIN


@several
def test_the_teacher_sees_each_image_once(devices: int, runs: Runs) -> None:
    counts = (runs(devices) / f"embedded-{devices}.txt").read_text().split()
    assert sum(map(int, counts)) == TRAIN


def _apart(runs: Runs, devices: int, part: str) -> list[dict[str, Any]]:
    return [
        torch.load(runs(devices) / f"apart-{devices}-{rank}.pt", weights_only=True)[part]
        for rank in range(devices)
    ]


@several
def test_ddp_sends_batch_norms_and_no_queue(devices: int, runs: Runs) -> None:
    for rank, found in enumerate(_apart(runs, devices, "broadcast")):
        assert found["own queue entries"] == (QUEUE - 8 if rank else 0)
        assert found["largest mean"] < 50  # the first process's, whose own was 0
        assert not found["find_unused_parameters"]


@several
def test_keys_are_normalised_among_other_processes_images(devices: int, runs: Runs) -> None:
    """Shuffle-BN against a literal version: each group through a copy of the key encoder."""
    found = _apart(runs, devices, "shuffle")
    seen = torch.cat([torch.cat(rank["groups"]) for rank in found])
    everyone, keys = found[0]["everyone"], torch.cat([rank["keys"] for rank in found])
    assert len(seen) == len(everyone) == len(keys) == 6 * devices
    model = PPSSL(**SMALL, contrastive=MoCo(dim=8, queue_size=QUEUE))
    model.build(TRAIN)
    model.contrastive.load_state_dict(found[0]["state"])
    for rank in found:
        assert [len(group) for group in rank["groups"]] == [3, 3]
        own = [
            any(image.equal(mine) for mine in rank["images"]) for image in torch.cat(rank["groups"])
        ]
        assert not all(own)
        for group in rank["groups"]:
            encoder, head = copy.deepcopy(
                (model.contrastive.key_encoder, model.contrastive.key_head)
            )
            expected = F.normalize(head(encoder.train()(group)), dim=1)
            for image, key in zip(group, expected, strict=True):
                (place,) = [i for i, other in enumerate(everyone) if other.equal(image)]
                torch.testing.assert_close(keys[place], key, atol=1e-5, rtol=1e-5)


CLASSIFIER = """
import sys
import torch
from lightning.pytorch import Trainer
from ppssl import FineTune, FolderDataModule

def main(root, out, devices):
    torch.manual_seed(0)
    vit = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    model = FineTune(backbone="vit_tiny_patch16_224", image_size=32, backbone_kwargs=vit, freeze_epochs=1,
                     ema_decay=0.9, class_weights="balanced", optimizer="sgd", lr=0.1)
    # SGD: Adam makes whole steps of the rounding errors that are the gradient of the keys' bias in attention
    data = FolderDataModule(root, image_size=32, batch_size=8 // devices, num_workers=0, seed=0, val_fraction=0.2)
    trainer = Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=3,
                      logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                      num_sanity_val_steps=0, default_root_dir=out)
    trainer.fit(model, data)
    if trainer.is_global_zero:
        metrics = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        torch.save({"state": model.state_dict(), "val": metrics}, f"{out}/{devices}.pt")

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_classifier_is_wrapped_whole(image_folder: Path, tmp_path: Path) -> None:
    """Head, encoder, the epoch in which only the head is trained, and the average: as on one process."""
    (image_folder / "train" / "class0" / "0.png").unlink()  # an odd number of images to validate
    script = tmp_path / "train.py"
    script.write_text(CLASSIFIER)
    runs = []
    for devices in (1, 2):
        finish(start([sys.executable, script, image_folder, tmp_path, devices]))
        runs.append(torch.load(tmp_path / f"{devices}.pt", weights_only=True))
    one, two = runs
    for part in ("state", "val"):
        assert one[part].keys() == two[part].keys()
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, atol=1e-5, rtol=1e-4, msg=name)
    assert {"val/top1", "val/macro"} <= set(one["val"])
