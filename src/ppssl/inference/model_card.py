"""Model card of an exported encoder: code that reads it, preprocessing, verification and provenance."""

import json
from typing import Any

from ppssl.checkpointing.backbone import encoder_name
from ppssl.inference.preprocessing import Preprocessing
from ppssl.utils.results import without_paths

__all__ = ["READERS", "model_card"]

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
"""By format, code that defines ``embed``, ``(B, 3, H, W) -> (B, D)``, when run in the folder of the export."""


_PROCESSOR = """
The same by transformers:

```python
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained(".")
images = processor(image, return_tensors="pt")["pixel_values"]  # of an RGB image
```

{difference}
"""
"""How to prepare images with transformers alone."""
_NO_DIFFERENCE = "Its pixels are those of the code above."
_OWN_PROCESSOR = (
    "Its pixels differ from those of the code above by one of 255 levels at most; where a side has 3, 7, 11, ... "
    "pixels more than the crop, its crop begins one pixel earlier."
)
_SQUASHED = (
    "It resizes images once to squares, the code above twice: pixels differ by about one of 255 levels on average, and "
    "by more at edges."
)


_FRONT_MATTER = """\
---
library_name: {tag}
pipeline_tag: image-feature-extraction
tags: [ppssl, self-supervised, fine-grained]
---"""
"""What model hubs read of a card."""


def model_card(
    content: dict[str, Any],
    library: str,
    reader: str,
    preprocessing: Preprocessing,
    origin: dict[str, Any],
    difference: float,
    largest: float,
) -> str:
    """Write the model card in Markdown; absolute paths in the configuration are left out.

    Args:
        content: The ``ppssl`` entry of the checkpoint.
        library: The library that reads the export.
        reader: The code that reads the export.
        preprocessing: Preprocessing of the images.
        origin: Git commit, library versions, and the SHA-256 of the checkpoint.
        difference: The largest absolute difference between features before and after the export.
        largest: The largest absolute feature.
    """
    spec, model = content["encoder"], content["model"]
    tag = {"hf": "transformers", "torchvision": "torchvision"}.get(library, library)
    size = preprocessing.view.size
    trained = without_paths({"model": model, "data": content["data"]})
    imports = "import torch\n" if "torch." in reader else ""
    return f"""\
{_FRONT_MATTER.format(tag=tag)}
# {encoder_name(spec)}, trained with ppssl

An image encoder, `(B, 3, {size}, {size}) -> (B, D)`. To read it, run in this folder:

```python
{imports}{reader}
```

## Preprocessing

```python
{preprocessing.code()}
```
{_processor(library, spec, preprocessing)}
## Verification

Read back with {library} in a process without ppssl, the features of four fixed images (normal noise) differ from
ppssl's features by at most {difference:.3g}; the largest feature is {largest:.3g}.

## Provenance

Trained as `{model["class_path"]}`. This card states no accuracy; `ppssl evaluate` measures it.

```json
{json.dumps({**trained, "exported": origin}, indent=1, sort_keys=True)}
```
"""


def _processor(library: str, spec: dict[str, Any], preprocessing: Preprocessing) -> str:
    """The part about transformers' image processor; empty for other libraries."""
    if library != "hf":
        return ""
    plain = _NO_DIFFERENCE if isinstance(spec["backbone"], str) else _OWN_PROCESSOR
    return _PROCESSOR.format(difference=_SQUASHED if preprocessing.view.squash else plain)
