"""Checkpoints that do not fit: one line that names the setting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from command_line import error_line, fit_arguments
from ppssl import AIS, PPSSL, LossPlugin, LossTerm, MoCo, UserError
from ppssl.checkpointing.compatibility import differences
from ppssl.cli.main import main


class Extra(LossPlugin):
    """A plugin with one weight."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.size = size

    def build(self, encoder: Any) -> None:
        self.layer = nn.Linear(self.size, 1)

    def forward(self, step: Any) -> LossTerm:
        return LossTerm(0 * self.layer.weight.sum().repeat(len(step.contrastive_loss)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images, a checkpoint of pretraining on them, one of a classifier, and changed ones."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("compatibility")
    rng = np.random.default_rng(0)
    for images, count in (("images", 8), ("more", 9)):
        for label in range(3):
            folder = root / images / "train" / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    found = {"root": root, "images": root / "images", "more": root / "more"}
    for name in ("pretrain", "finetune"):
        arguments = fit_arguments(root / "images", root / name)
        arguments[2] = f"ppssl:folder/{name}"
        assert main(arguments) == 0
        (found[name],) = (root / name).rglob("last.ckpt")
    content = torch.load(found["pretrain"], weights_only=True)

    def save(name: str, **changes: Any) -> None:
        found[name] = root / f"{name}.ckpt"
        torch.save({k: v for k, v in (content | changes).items() if v is not None}, found[name])

    save("weights-only", optimizer_states=None, lr_schedulers=None, callbacks=None)
    save("newer", ppssl=content["ppssl"] | {"schema_version": 99})
    return found


FIT: dict[str, tuple[list[str], str]] = {
    "width": (
        ["--model.backbone_kwargs={{width: 8}}"],
        "`model.backbone_kwargs.width` was 4, is 8",
    ),
    "backbone": (
        ["--model.backbone=resnet18", "--model.backbone_kwargs=null"],
        "`model.backbone` was resnet_small, is resnet18",
    ),
    "projection": (["--model.contrastive.dim=7"], "`model.contrastive.dim` was 128, is 7"),
    "plugin": (
        ["--model.plugins.iadm=ppssl.IADM"],
        "`model.plugins.iadm` was absent, is ppssl.IADM",
    ),
    "optimizer": (["--model.optimizer=sgd"], "`model.optimizer` was adamw, is sgd"),
    "groups": (["--model.encoder_start=0.2"], "`model.encoder_start` was 0.0, is 0.2"),
    "weights only": (["--ckpt_path={weights-only}"], "holds weights only (`save_weights_only`)"),
    "newer": (["--ckpt_path={newer}"], "schema 99 is newer than this ppssl's"),
    "a classifier": (["--ckpt_path={finetune}"], "is of a `FineTune`, not of a `PPSSL`"),
}


@pytest.mark.parametrize("kind", FIT)
def test_resuming_what_does_not_fit_names_the_setting(
    kind: str, made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    options, message = FIT[kind]
    arguments = fit_arguments(made["images"], tmp_path, f"--ckpt_path={made['pretrain']}")
    arguments += ["--trainer.max_epochs=2", *(option.format(**made) for option in options)]
    assert main(arguments) == 2
    assert message in error_line(capsys)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    "option", ["--model.contrastive.queue_size=5", "--data.root={more}", "--model.lr=0.1"]
)
def test_resuming_with_more_images_another_queue_or_rate_works(
    option: str, made: dict[str, Path], tmp_path: Path
) -> None:
    arguments = fit_arguments(made["images"], tmp_path, f"--ckpt_path={made['pretrain']}")
    assert main([*arguments, "--trainer.max_epochs=2", option.format(**made)]) == 0
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 6


@pytest.mark.parametrize("command", ["validate", "predict"])
@pytest.mark.parametrize("kind", ["width", "plugin", "a classifier"])
def test_so_does_measuring(
    kind: str, command: str, made: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    options, message = FIT[kind]
    arguments = fit_arguments(made["images"], tmp_path, f"--ckpt_path={made['pretrain']}")[1:]
    assert main([command, *arguments, *(option.format(**made) for option in options)]) == 2
    assert message in error_line(capsys)


def test_other_optimizer_settings_do_not_hinder_measuring(
    made: dict[str, Path], tmp_path: Path
) -> None:
    for checkpoint in (made["pretrain"], made["weights-only"]):
        arguments = fit_arguments(made["images"], tmp_path, f"--ckpt_path={checkpoint}")[1:]
        assert main(["validate", *arguments, "--model.optimizer=sgd"]) == 0


@pytest.mark.parametrize("recipe", ["linear", "finetune"])
def test_of_classifiers(recipe: str, made: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    arguments = fit_arguments(made["images"], tmp_path, f"--ckpt_path={made['finetune']}")
    arguments[2] = f"ppssl:folder/{recipe}"
    arguments += ["--trainer.max_epochs=2"]
    arguments += ["--model.optimizer=sgd"] if recipe == "finetune" else []
    assert main(arguments) == 2
    message = {
        "linear": "is of a `FineTune`, not of a `LinearProbe`: give a recipe with `model: ppssl.",
        "finetune": "`model.optimizer` was adamw, is sgd",
    }
    assert message[recipe] in error_line(capsys)


def test_loading_with_other_plugins(made: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"`model\.plugins\.extra` was absent, is .*Extra"):
        PPSSL.load_from_checkpoint(made["pretrain"], plugins={"extra": Extra()})
    plain = PPSSL.load_from_checkpoint(made["pretrain"])
    with pytest.raises(RuntimeError, match="size mismatch"):  # no checkpoint: torch's own error
        plain.load_state_dict({k: v[:0] for k, v in plain.state_dict().items() if v.ndim})


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {}, []),
        ({"lr": 0.1}, {"lr": 0.2}, [("m.lr", "0.1", "0.2")]),
        (
            {"contrastive": MoCo()},
            {"contrastive": MoCo(dim=8)},
            [("m.contrastive.dim", "256", "8")],
        ),
        (
            {"plugins": {"a": AIS("birds")}},
            {},
            [("m.plugins.a", "ppssl.AIS", "absent")],
        ),
        (
            {"backbone_kwargs": {"width": 4}},
            {"backbone_kwargs": {"width": 8}},
            [("m.backbone_kwargs.width", "4", "8")],
        ),
    ],
)
def test_differences(
    first: dict[str, Any], second: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    tiny: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
    make: Callable[..., PPSSL] = PPSSL
    configs = [make(**tiny | changes).config() for changes in (first, second)]
    assert [d for d in differences(*configs, "m") if "base_lr" not in d[0]] == expected


def test_lists_and_tuples_are_equal() -> None:
    assert not list(differences({"a": [1, 2]}, {"a": (1, 2)}, "x"))
