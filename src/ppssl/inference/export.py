"""Export of an encoder to timm, torchvision, transformers or ONNX, with a model card and a verification.

Each format has a code snippet that reads it (:data:`~ppssl.inference.model_card.READERS`). The model card shows that
snippet, and the verification runs it in a separate process without ppssl: it must give the same features.
"""

import hashlib
import importlib.util
import json
import os
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

from ppssl.checkpointing.backbone import encoder_name
from ppssl.checkpointing.files import read_checkpoint
from ppssl.encoder import load_encoder
from ppssl.inference.model_card import READERS, model_card
from ppssl.inference.preprocessing import Preprocessing
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.gem import is_gem
from ppssl.utils.paths import AnyPath, expand, writable_folder, writing
from ppssl.utils.results import provenance

__all__ = ["Format", "export"]

Format = Literal["timm", "torchvision", "hf", "onnx"]
TOLERANCE = 1e-4
"""Largest allowed difference of a feature, relative to the largest feature."""
IMAGES = 4
"""Number of fixed images that are compared."""
_VERIFICATION_SCRIPT = """
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


def export(
    checkpoint: AnyPath, to: Format, out: AnyPath, backbone: nn.Module | None = None
) -> float:
    """Export the encoder of a checkpoint for another library, with a model card, and verify the export.

    Args:
        checkpoint: A checkpoint of ``ppssl fit``; of a classifier the encoder is exported.
        to: ``"timm"`` (weights and ``config.json``, for ``timm.create_model("local-dir:...")``), ``"torchvision"`` (the
            ``state_dict`` of a ResNet), ``"hf"`` (transformers' TimmWrapper, or the model of transformers that was
            trained, with the configuration of an image processor), or ``"onnx"``.
        out: Output folder, which must be new or empty. After an error it is left as it was.
        backbone: As for :func:`~ppssl.encoder.load_encoder`.

    Returns:
        The largest absolute difference between the features before and after the export, over four fixed images.

    Raises:
        UserError: The other library has no such model, weights are missing or unexpected, the features differ, a
            package is not installed, or the folder is not empty.
    """
    if to not in get_args(Format):
        raise ArgumentError(f"`to` must be one of {', '.join(get_args(Format))}, got {to!r}.")
    out = writable_folder(out).resolve()  # the verification runs in another working directory
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty: choose a new folder.")
    content = read_checkpoint(checkpoint)["ppssl"]
    encoder = load_encoder(expand(checkpoint), backbone)
    preprocessing = Preprocessing.of(content)
    with writing(out), _temporary_folder(out) as temporary:
        folder = Path(temporary) / "out"
        folder.mkdir()
        WRITERS[to](encoder, content["encoder"], preprocessing, folder)
        reader = READERS[to].format(name=encoder_name(content["encoder"]))
        difference, largest = _verify(encoder, reader, preprocessing.view.size, folder)
        if not difference <= TOLERANCE * largest:
            raise UserError(
                f"Not exported: features read back with {to} differ by {difference:.2g} (largest feature: "
                f"{largest:.2g})."
            )
        checksum = hashlib.sha256(expand(checkpoint).read_bytes()).hexdigest()
        origin = provenance() | {"sha256": checksum}
        card = model_card(content, to, reader, preprocessing, origin, difference, largest)
        (folder / "README.md").write_text(card)
        if out.exists():  # it may be the working folder or a mount point: it stays what it is
            for file in folder.iterdir():
                file.replace(out / file.name)
        else:
            folder.replace(out)
    return difference


def _temporary_folder(out: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder on the same disk: in ``out`` if it exists, else beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out if out.exists() else out.parent
    return tempfile.TemporaryDirectory(dir=folder, prefix=f".{out.name}-")


def _write_timm(
    encoder: Any, spec: dict[str, Any], preprocessing: Preprocessing, folder: Path
) -> None:
    _refuse_others(spec)
    arguments = dict(spec["kwargs"])
    if encoder.pretrained_cfg.get("fixed_input_size") and spec["image_size"]:
        arguments["img_size"] = spec["image_size"]
    kept = ("first_conv", "classifier", "fixed_input_size", "pool_size")
    cfg = {name: encoder.pretrained_cfg.get(name) for name in kept} | preprocessing.timm()
    config = {
        "architecture": spec["backbone"],
        "num_classes": 0,
        "num_features": encoder.num_features,
        "model_args": arguments,
        "pretrained_cfg": {name: value for name, value in cfg.items() if value is not None},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(_weights(encoder), folder / "model.safetensors")


def _write_hf(
    encoder: Any, spec: dict[str, Any], preprocessing: Preprocessing, folder: Path
) -> None:
    from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperModel

    module = getattr(encoder, "module", None)
    if isinstance(module, PreTrainedModel):
        module.save_pretrained(folder)
        config = json.dumps(preprocessing.transformers(), indent=1)
        (folder / "preprocessor_config.json").write_text(config + "\n")
        return
    _write_timm(encoder, spec, preprocessing, folder)
    timm_config = json.loads((folder / "config.json").read_text())
    wrapper_config = TimmWrapperConfig.from_dict(timm_config, num_labels=0)
    model = TimmWrapperModel(wrapper_config)
    model.timm_model.load_state_dict(encoder.state_dict())
    model.save_pretrained(folder)


def _write_torchvision(
    encoder: Any, spec: dict[str, Any], preprocessing: Preprocessing, folder: Path
) -> None:
    import torchvision

    _refuse_others(spec)
    name = spec["backbone"]
    if name not in torchvision.models.list_models() or "resnet" not in name:
        raise UserError(
            f"torchvision has no ResNet `{name}`: choose `--to timm`, `--to hf` or `--to onnx`."
        )
    model = torchvision.models.get_model(name)
    model.fc = nn.Identity()
    _check_same_weights(model, encoder, "torchvision")
    save_file(_weights(encoder), folder / "model.safetensors")


def _write_onnx(
    encoder: Any, spec: dict[str, Any], preprocessing: Preprocessing, folder: Path
) -> None:
    packages = ("onnx", "onnxscript", "onnxruntime")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"`--to onnx` needs packages that are not installed: run `pip install {' '.join(missing)}`."
        )
    size = preprocessing.view.size
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


def _refuse_others(spec: dict[str, Any]) -> None:
    """Refuse encoders that timm and torchvision do not have."""
    if spec["backbone"] == "resnet_small":
        raise UserError(
            "`resnet_small` is part of ppssl and not of any other library: choose `--to onnx`, or read the checkpoint "
            "with `ppssl.load_encoder`."
        )
    if not isinstance(spec["backbone"], str):
        raise UserError(
            f"The encoder is a `{spec['module']['kind']}` and no model of timm's: choose `--to onnx` (or `--to hf` for "
            "a model of transformers), or read the checkpoint with `ppssl.load_encoder`."
        )
    if is_gem(spec["kwargs"]):
        raise UserError(
            "The encoder pools by `global_pool: gem`, which no other library has: choose `--to onnx`, or read the "
            "checkpoint with `ppssl.load_encoder`."
        )


def _check_same_weights(model: nn.Module, encoder: nn.Module, library: str) -> None:
    """Raise unless two models have the same weights by name and shape."""
    expected, exported = model.state_dict(), encoder.state_dict()
    different = expected.keys() ^ exported.keys()
    for name in expected.keys() & exported.keys():
        if expected[name].shape != exported[name].shape:
            different.add(name)
    if different:
        examples = sorted(different)[:3]
        more = " ..." if len(different) > 3 else ""
        raise UserError(
            f"The encoder differs from {library}'s model of that name: {len(different)} weights are missing, "
            f"unexpected or of another shape ({', '.join(examples)}{more}). Does `backbone_kwargs` change the "
            "architecture? Choose another `--to`."
        )


def _verify(encoder: nn.Module, reader: str, image_size: int, folder: Path) -> tuple[float, float]:
    """Compare features in a process without ppssl: the largest absolute difference, and the largest feature."""
    images = np.random.Generator(np.random.Philox(0)).standard_normal(
        (IMAGES, 3, image_size, image_size), dtype=np.float32
    )
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(images)).numpy()
    images_file, features_file = folder.parent / "images.npy", folder.parent / "features.npy"
    np.save(images_file, images)
    script = _VERIFICATION_SCRIPT.format(reader=reader)
    command = [sys.executable, "-P", "-c", script, str(images_file), str(features_file)]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no error message"])[-1]
        raise UserError(f"Not exported: the exported encoder cannot be read back: {reason}")
    features = np.load(features_file)
    if features.shape != expected.shape:
        raise UserError(
            f"Not exported: features read back have the shape {features.shape} instead of {expected.shape}."
        )
    return float(np.abs(features - expected).max()), float(np.abs(expected).max())
