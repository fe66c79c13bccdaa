"""Other places to look at than where the encoder sees something: controls and other maps for ZoomTeacher and Anchor.

``random``: a window anywhere; ``contrast``: where the image differs most from its local mean, which no model is needed
for; ``centre``; ``gradcam``: the paper's map, GradCAM of the image itself (the gradient of the similarity between the
image's embedding and its own, centred, times the difference to the local mean).
"""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ppssl import Anchor, Teacher, ZoomTeacher
from ppssl.encoder import Encoder
from ppssl.text.teachers.base import of_channels

Place = Literal["random", "contrast", "centre", "gradcam"]
PLACES: tuple[Place, ...] = get_args(Place)


class ZoomElsewhere(ZoomTeacher):
    """A :class:`ppssl.ZoomTeacher` that looks somewhere else.

    Args:
        teacher: The teacher.
        backbone: Encoder that says where to look, for ``gradcam``.
        pretrained: Its weights.
        window: Side of the window.
        place: Where it looks.
    """

    def __init__(
        self,
        teacher: str | Teacher,
        backbone: str,
        pretrained: bool | str = True,
        window: float = 0.64,
        place: Place = "random",
    ) -> None:
        super().__init__(teacher, backbone, pretrained=pretrained, window=window)
        self.place = place
        self.name += f", {place}"

    def saliency(self, images: Tensor) -> Tensor:
        """A map ``(B, h, w)`` of images ``(B, 3, H, W)`` in [0, 1]."""
        if self.place == "random":
            return torch.stack([_noise(image) for image in images])
        if self.place == "centre":
            line = torch.hann_window(14, periodic=False, device=images.device)
            return line.outer(line).expand(len(images), -1, -1)
        if self.place == "contrast":
            return _cells((images - _local_mean(images)).square().sum(dim=1))
        return self._gradcam(images)

    def _gradcam(self, images: Tensor) -> Tensor:
        info = self.encoder.info
        mean, std = (of_channels(v, images) for v in (info.mean, info.std))
        with torch.enable_grad():
            x = ((images - mean) / std).requires_grad_()
            p = F.normalize(self.encoder(x).float(), dim=1)
            rest = p.detach().mean(dim=0)
            target = F.normalize(p.detach() - rest, dim=1)
            (gradient,) = torch.autograd.grad(((p - rest) * target).sum(), x)
        attribution = (gradient * (x - _local_mean(x))).detach().sum(dim=1)
        return _cells(F.avg_pool2d(attribution[:, None], 16)[:, 0].relu())


class AnchorElsewhere(Anchor):
    """An :class:`ppssl.Anchor` whose starting encoder looks somewhere else.

    Args:
        loss_weight: Weight of the term.
        image_size: Pixels that the starting encoder sees.
        window: Side of the window.
        place: Where it looks.
    """

    def __init__(
        self,
        loss_weight: float = 10.0,
        image_size: int = 224,
        window: float = 0.64,
        place: Place = "random",
    ) -> None:
        super().__init__(loss_weight, image_size=image_size, window=window)
        self.place: Place = place

    def teacher(self, encoder: Encoder, image_size: int) -> Teacher:
        """The starting encoder, looking elsewhere."""
        usual: Any = super().teacher(encoder, image_size)
        other = ZoomElsewhere(usual.teacher, usual.backbone, window=usual.window, place=self.place)
        other.encoder = encoder
        return other


def _noise(image: Tensor) -> Tensor:
    """One cell anywhere; the same for the same image."""
    seed = int(image.double().sum().item() * 1e4)
    cells = torch.zeros(14 * 14)
    cells[torch.randint(14 * 14, (1,), generator=torch.Generator().manual_seed(seed))] = 1
    return cells.view(14, 14).to(image.device)


def _local_mean(images: Tensor) -> Tensor:
    size = (images.shape[-2], images.shape[-1])
    return F.interpolate(F.adaptive_avg_pool2d(images, 8), size=size, mode="bilinear")


def _cells(maps: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(maps[:, None], 14)[:, 0]
