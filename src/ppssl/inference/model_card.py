"""The model card of an exported encoder: how to read it, how to prepare images, and where it comes from."""

import json
from dataclasses import dataclass
from typing import Any

from ppssl.utils.results import without_paths

__all__ = ["READERS", "Preprocessing", "model_card"]

READERS = {
    "timm": """\
import timm

embed = timm.create_model("local-dir:.", pretrained=True, num_classes=0).eval()""",
    "hf": """\
from transformers import AutoModel

model = AutoModel.from_pretrained(".").eval()
embed = lambda images: model(images).pooler_output""",
    "torchvision": """\
import torchvision
from safetensors.torch import load_file

embed = torchvision.models.{name}()
embed.fc = torch.nn.Identity()
embed.load_state_dict(load_file("model.safetensors"))
embed.eval()""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
embed = lambda images: session.run(None, {{"images": images.numpy()}})[0]""",
}
"""Code that makes ``embed``, ``(B, 3, H, W) -> (B, D)``, in the folder of the export."""


@dataclass(frozen=True)
class Preprocessing:
    """How images become the encoder's input: short side to ``image_size / crop``, centre crop, mean and std.

    Attributes:
        image_size: Height and width in pixels.
        crop: The centre crop, as a fraction of the short side.
        mean: Of each channel, in units of [0, 1].
        std: Likewise.
    """

    image_size: int
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, encoder: Any, content: dict[str, Any]) -> "Preprocessing":
        """As the encoder of a checkpoint (its ``ppssl`` entry) was trained; 224 and 0.875 where that is not known."""
        data = (content["data"] or {"init_args": {}})["init_args"]
        size = content["encoder"]["image_size"] or data.get("image_size", 224)
        cfg = encoder.pretrained_cfg
        return cls(size, data.get("eval_crop", 0.875), tuple(cfg["mean"]), tuple(cfg["std"]))

    def timm(self) -> dict[str, Any]:
        """As timm's ``pretrained_cfg`` says it."""
        return {
            "input_size": [3, self.image_size, self.image_size],
            "crop_pct": self.crop,
            "crop_mode": "center",
            "interpolation": "bilinear",
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def code(self) -> str:
        """The same by torchvision."""
        return f"""\
from torchvision import transforms

prepare = transforms.Compose([
    transforms.Resize({round(self.image_size / self.crop)}),
    transforms.CenterCrop({self.image_size}),
    transforms.ToTensor(),
    transforms.Normalize({self.mean}, {self.std}),
])"""


def model_card(
    content: dict[str, Any],
    library: str,
    reader: str,
    prepared: Preprocessing,
    origin: dict[str, Any],
    difference: float,
    largest: float,
) -> str:
    """Markdown; paths of the machine that it was trained on are left out.

    Args:
        content: The ``ppssl`` entry of the checkpoint.
        library: Which library reads it.
        reader: The code that does.
        prepared: How images are prepared.
        origin: Git commit, versions, and the checkpoint's hash.
        difference: The largest difference of a feature after reading it back.
        largest: The largest feature.
    """
    spec, model = content["encoder"], content["model"]
    tag = {"hf": "transformers", "torchvision": "torchvision"}.get(library, library)
    trained = without_paths({"model": model, "data": content["data"]})
    imports = "import torch\n" if "torch." in reader else ""
    return f"""\
---
library_name: {tag}
pipeline_tag: image-feature-extraction
tags: [ppssl, self-supervised, fine-grained]
---
# {spec["backbone"]}, trained with ppssl

An image encoder, `(B, 3, {prepared.image_size}, {prepared.image_size}) -> (B, D)`. In this folder:

```python
{imports}{reader}
```

## Preprocessing

```python
{prepared.code()}
```

## Check

Read back by {library} in a clean process, its features of four fixed images (normal noise) differ from ppssl's by at
most {difference:.3g}; the largest feature is {largest:.3g}.

## Provenance

Trained as `{model["class_path"]}`. Nothing is said here of how good it is: `ppssl evaluate` measures that.

```json
{json.dumps({**trained, "exported": origin}, indent=1, sort_keys=True)}
```
"""
