"""Hand an encoder on in the format of another library, read back by that library alone in a process of its own.

Every format has the code that reads it (:data:`READERS`). It stands in the model card, and it is what runs in the clean
process: that loads the folder without ppssl, embeds the same images, and has to give the same features.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from ppssl.checkpointing.files import read_checkpoint
from ppssl.encoder import load_encoder
from ppssl.inference.model_card import READERS, Preprocessing, model_card
from ppssl.utils.errors import UserError
from ppssl.utils.results import provenance

__all__ = ["Format", "export"]

Format = Literal["timm", "torchvision", "hf", "onnx"]
TOLERANCE = 1e-4
"""Largest difference of a feature, as a part of the largest feature."""
IMAGES = 4
_CHECK = """
import sys
import numpy as np
import torch
from pathlib import Path
{reader}
images = torch.from_numpy(np.load(sys.argv[1]))
with torch.inference_mode():
    features = embed(images)
np.save(sys.argv[2], np.asarray(features))
"""


def export(checkpoint: str | Path, to: Format, out: str | Path) -> float:
    """Write an encoder for another library, with a model card, and read it back to see that it is the same.

    Args:
        checkpoint: Of ``ppssl fit``; of a classifier the encoder is taken.
        to: ``"timm"`` (weights and ``config.json``, for ``timm.create_model("local-dir:...")``), ``"torchvision"`` (the
            ``state_dict`` of a ResNet), ``"hf"`` (transformers' TimmWrapper), or ``"onnx"``.
        out: The folder to make; it must not be there, or be empty. Nothing is left in it where an error is raised.

    Returns:
        The largest absolute difference between a feature before and after, over four fixed images.

    Raises:
        UserError: The other library has no such model, a weight would be left over or missing, the features differ, a
            package is not installed, or the folder is not empty.
    """
    if to not in get_args(Format):
        raise ValueError(f"`to` must be one of {', '.join(get_args(Format))}, got {to!r}.")
    out = Path(out).resolve()  # the clean process runs in another folder
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there and not empty: give a new folder.")
    content = read_checkpoint(checkpoint)["ppssl"]
    encoder = load_encoder(checkpoint)
    prepared = Preprocessing.of(encoder, content)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / "out"
        folder.mkdir()
        WRITERS[to](encoder, content["encoder"], prepared, folder)
        reader = READERS[to].format(name=content["encoder"]["backbone"])
        difference, largest = _compare(encoder, reader, prepared.image_size, folder)
        if not difference <= TOLERANCE * largest:
            raise UserError(
                f"Read back by {to}, features differ by {difference:.2g} (the largest is {largest:.2g}): not exported."
            )
        origin = provenance() | {
            "sha256": hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
        }
        card = model_card(content, to, reader, prepared, origin, difference, largest)
        (folder / "README.md").write_text(card)
        shutil.rmtree(out, ignore_errors=True)
        folder.replace(out)
    return difference


def _write_timm(encoder: Any, spec: dict[str, Any], prepared: Preprocessing, folder: Path) -> None:
    _refuse_own(spec)
    arguments = dict(spec["kwargs"])
    if encoder.pretrained_cfg.get("fixed_input_size") and spec["image_size"]:
        arguments["img_size"] = spec["image_size"]
    known = ("first_conv", "classifier", "fixed_input_size", "pool_size")
    cfg = {name: encoder.pretrained_cfg.get(name) for name in known} | prepared.timm()
    config = {
        "architecture": spec["backbone"],
        "num_classes": 0,
        "num_features": encoder.num_features,
        "model_args": arguments,
        "pretrained_cfg": {name: value for name, value in cfg.items() if value is not None},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(_weights(encoder), folder / "model.safetensors")


def _write_hf(encoder: Any, spec: dict[str, Any], prepared: Preprocessing, folder: Path) -> None:
    from transformers import TimmWrapperConfig, TimmWrapperModel

    _write_timm(encoder, spec, prepared, folder)
    described = json.loads((folder / "config.json").read_text())
    config = TimmWrapperConfig.from_dict(described, num_labels=0)
    model = TimmWrapperModel(config)
    model.timm_model.load_state_dict(encoder.state_dict())
    model.save_pretrained(folder)


def _write_torchvision(
    encoder: Any, spec: dict[str, Any], prepared: Preprocessing, folder: Path
) -> None:
    import torchvision

    _refuse_own(spec)
    name = spec["backbone"]
    if name not in torchvision.models.list_models() or "resnet" not in name:
        raise UserError(
            f"torchvision has no ResNet `{name}`: `--to timm`, `hf` and `onnx` take other encoders."
        )
    model = torchvision.models.get_model(name)
    model.fc = nn.Identity()
    _refuse_partial(model, encoder, "torchvision")
    save_file(_weights(encoder), folder / "model.safetensors")


def _write_onnx(encoder: Any, spec: dict[str, Any], prepared: Preprocessing, folder: Path) -> None:
    packages = ("onnx", "onnxscript", "onnxruntime")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"`--to onnx` needs packages that are not installed: `pip install {' '.join(missing)}`."
        )
    size = prepared.image_size
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        encoder,
        (torch.zeros(2, 3, size, size),),
        str(folder / "model.onnx"),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
    )


WRITERS: dict[str, Callable[[Any, dict[str, Any], Preprocessing, Path], None]] = {
    "timm": _write_timm,
    "torchvision": _write_torchvision,
    "hf": _write_hf,
    "onnx": _write_onnx,
}


def _weights(encoder: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.contiguous().clone() for name, value in encoder.state_dict().items()}


def _refuse_own(spec: dict[str, Any]) -> None:
    if spec["backbone"] == "resnet_small":
        raise UserError(
            "`resnet_small` is ppssl's own encoder, which no other library knows: `--to onnx`, or `load_encoder`."
        )


def _refuse_partial(model: nn.Module, encoder: nn.Module, library: str) -> None:
    theirs, ours = model.state_dict(), encoder.state_dict()
    shapes = {n for n in theirs.keys() & ours.keys() if theirs[n].shape != ours[n].shape}
    odd = sorted((theirs.keys() ^ ours.keys()) | shapes)
    if odd:
        raise UserError(
            f"The encoder is not {library}'s model of that name: {len(odd)} weights are missing, left over or of "
            f"another shape ({', '.join(odd[:3])}{' ...' * (len(odd) > 3)}); `backbone_kwargs` may have changed it."
        )


def _compare(encoder: nn.Module, reader: str, image_size: int, folder: Path) -> tuple[float, float]:
    """The largest difference of a feature, and the largest feature; read in a process that knows nothing of ppssl."""
    images = np.random.Generator(np.random.Philox(0)).standard_normal(
        (IMAGES, 3, image_size, image_size), dtype=np.float32
    )
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(images)).numpy()
    given, made = folder.parent / "images.npy", folder.parent / "features.npy"
    np.save(given, images)
    command = [sys.executable, "-P", "-c", _CHECK.format(reader=reader), str(given), str(made)]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"What was written cannot be read back: {reason}")
    found = np.load(made)
    if found.shape != expected.shape:
        raise UserError(f"Read back, features are {found.shape} in place of {expected.shape}.")
    return float(np.abs(found - expected).max()), float(np.abs(expected).max())
