"""A narrow ResNet for small images on a CPU."""

from typing import Any

from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

__all__ = ["resnet_small"]


def resnet_small(
    width: int = 32, depth: int = 1, in_chans: int = 3, num_classes: int = 0, **kwargs: Any
) -> ByobNet:
    """Narrow ResNet of stride 8, for images of 48 to 96 pixels on a CPU.

    3x3 stem of stride 2, then stages of ``depth`` basic blocks with 1, 2, 4 and 8 times ``width`` channels and
    strides 1, 2, 2, 1; timm's own blocks. Unlike timm's default no block begins as its shortcut alone
    (``zero_init_last``): in so small a network that leaves few random features to begin with, and how well MoCo v2 does
    then depends on which ones they are (experiments/RESULTS.md).
    """
    stages = [(width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 1)]
    blocks = tuple(ByoBlockCfg(type="basic", d=depth, c=c, s=s, gs=0, br=1.0) for c, s in stages)
    cfg = ByoModelCfg(blocks=blocks, stem_chs=width, stem_type="3x3", stem_pool="")
    kwargs = {"zero_init_last": False} | kwargs
    model = ByobNet(cfg, num_classes=num_classes, in_chans=in_chans, **kwargs)
    model.pretrained_cfg = {  # type: ignore[assignment]  # timm sets it likewise
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return model
