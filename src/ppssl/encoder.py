"""The encoder: a timm model or a module as a feature map and a pooled embedding, with its batch-norm policy.

The embedding p is timm's pooled pre-logits, the output of a model with ``num_classes=0``. All metrics, exported files
and :func:`load_encoder` use it (:ref:`F5 <f5>`).
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from ppssl.checkpointing.backbone import (
    argument_of,
    describe,
    make_backbone,
    model_of_checkpoint,
    restore_input,
)
from ppssl.checkpointing.encoder_weights import encoder_part, load_file, load_strictly
from ppssl.checkpointing.files import read_checkpoint
from ppssl.utils.checks import check_choice, check_pixels
from ppssl.utils.compiler import compiled_version
from ppssl.utils.module_encoder import ModuleEncoder, freeze_unused
from ppssl.utils.paths import expand
from ppssl.utils.timm_features import (
    FeatureShapes,
    as_map,
    feature_shapes,
    forward_features,
    from_map,
    recorded_stages,
)

__all__ = [
    "BatchNormPolicy",
    "Encoder",
    "EncoderInfo",
    "Features",
    "as_map",
    "evaluation_mode",
    "load_encoder",
]

BatchNormPolicy = Literal["auto", "frozen", "batch"]


class Features(NamedTuple):
    """Feature map and embedding of a batch.

    Attributes:
        map: The feature map F that is pooled, ``(B, C, h, w)``; tokens become a grid, class tokens are left out.
        embedding: p, ``(B, D)``.
    """

    map: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class EncoderInfo:
    """Sizes and normalisation of an encoder, from which objectives and plugins create their parameters.

    Attributes:
        dim: D, the length of the embedding.
        channels: C, the channels of the feature map.
        mean: Mean of each channel that its input is normalised with, in units of [0, 1].
        std: Standard deviation of each channel, likewise.
        frozen_copy: Returns a copy of the encoder as it is now, in evaluation mode and without gradients.
        pools_map: Whether the embedding is pooled from the feature map; else it is of class tokens or of several maps.
    """

    dim: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    frozen_copy: Callable[[], nn.Module] | None = field(default=None, compare=False, repr=False)
    pools_map: bool = True


class Encoder(nn.Module):
    """A timm model without its classifier, or a module of another library or of your own.

    Args:
        backbone: Any timm model name, ``resnet_small``, this project's encoder for small images on a CPU, or a module
            (:class:`~ppssl.utils.module_encoder.ModuleEncoder` says what it returns).
        pretrained: timm's weights (``True``), none (``False``), or a local file or folder: an encoder or checkpoint of
            ppssl, or a timm ``.safetensors`` / ``.pth`` file, all of whose encoder weights must fit. Of a module
            ``True`` says that its weights, which it brings, are pretrained.
        image_size: Height and width of the input in pixels, for models that are built for one size (ViT); ``None``:
            their own.
        kwargs: More arguments of the timm model, such as ``channels``, ``drop_path_rate`` or ``global_pool``: its own
            (``"max"``) or, for models of convolutions, ``"gem"`` (:class:`~ppssl.utils.gem.GeM`).
        batch_norm: ``"frozen"``: batch norm always uses its running statistics and never updates them; its affine
            parameters are trained. ``"batch"``: statistics of the batch in training. ``"auto"``: frozen for pretrained
            weights, which lose half of their accuracy when the statistics are estimated anew on a small data set
            (experiments/RESULTS.md); batch for random weights.
        compiled: Whether ``forward_features`` is compiled (``torch.compile``) in training mode. Only the call is, so
            weights, copies and files are those of the plain model. Images that require a gradient pass through the
            plain model: its backward pass to the image is cheaper, and may run twice.

    Attributes:
        batch_norm: ``"frozen"`` or ``"batch"``.
        name: timm's name, or the class of the module.
        spec: Description of the encoder as plain data, from which a checkpoint makes it again.

    Raises:
        UserError: No such model, weights that do not fit, or none to be had; a model that does not take images of this
            size, has no feature map or no pooled embedding.
    """

    model: Any  # timm's models share an interface, not a type

    def __init__(
        self,
        backbone: str | nn.Module,
        pretrained: bool | str = False,
        image_size: int | None = None,
        kwargs: Mapping[str, Any] | None = None,
        batch_norm: BatchNormPolicy = "auto",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        check_choice(get_args(BatchNormPolicy), batch_norm=batch_norm)
        check_pixels(image_size=image_size)
        if batch_norm == "auto":
            batch_norm = "frozen" if pretrained else "batch"
        self.batch_norm: Literal["frozen", "batch"] = batch_norm
        self.compiled = compiled
        kwargs = dict(kwargs or {})
        self.model = make_backbone(backbone, image_size, kwargs, pretrained=pretrained is True)
        self.name = backbone if isinstance(backbone, str) else type(backbone).__name__
        self._format = (
            torch.channels_last if _is_convolutional(self.model) else torch.contiguous_format
        )
        self.model.to(memory_format=self._format)
        if not isinstance(pretrained, bool):
            load_file(self.model, expand(pretrained))
        self._shapes = self.check_image_size(image_size or kwargs.get("img_size"))
        self._taken: set[tuple[int, int]] = set()
        if isinstance(self.model, ModuleEncoder):
            self.model.num_features = self._shapes.dim
            with evaluation_mode(self):
                freeze_unused(self.model, self._shapes.size)
        self.spec: dict[str, Any] = describe(backbone, self.model, image_size, kwargs)
        self.train()

    def check_image_size(self, size: int | tuple[int, int] | None) -> FeatureShapes:
        """Shapes of the features of images of a size in pixels; nothing is computed.

        Args:
            size: Height and width; ``None``: those that the model was trained with.

        Raises:
            UserError: The model does not take this size.
        """
        with evaluation_mode(self):
            return feature_shapes(self.model, self.name, size)

    def check_further_view(self, height: int, width: int) -> None:
        """Check that the encoder takes views of a size beside those that it is trained at; nothing is computed.

        Raises:
            UserError: It does not.
        """
        if (height, width) in self._taken:
            return
        advice = (
            "make further views as large as the others (`local_size` of the augmentation), or let a ViT of timm take "
            "any size, with `model.backbone_kwargs: {dynamic_img_size: true}`."
        )
        with evaluation_mode(self):
            size = height if height == width else (height, width)
            feature_shapes(self.model, self.name, size, advice)
        self._taken.add((height, width))

    @property
    def info(self) -> EncoderInfo:
        """Sizes of the feature map and embedding, and the normalisation of the input."""
        cfg, shapes = self.model.pretrained_cfg, self._shapes
        pools_map = not shapes.map_beside and getattr(self.model, "global_pool", "") != "token"
        mean, std = tuple(cfg["mean"]), tuple(cfg["std"])
        return EncoderInfo(shapes.dim, shapes.channels, mean, std, self._frozen_copy, pools_map)

    @property
    def backbone(self) -> Any:
        """What a model's configuration holds as its ``backbone``: a name, a configuration, or that it is not saved."""
        return argument_of(self.spec)

    def restore(self, spec: Mapping[str, Any]) -> None:
        """Take the normalisation that the encoder of a checkpoint was trained with, by its :attr:`spec`."""
        restore_input(self.model, spec)
        self.spec |= {"module": spec["module"]} if "module" in spec else {}

    def _frozen_copy(self) -> nn.Module:
        return copy.deepcopy(self).requires_grad_(False).eval()

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether the embedding of an image in training depends on the other images of its batch."""
        return self.batch_norm == "batch" and any(map(_is_batch_norm, self.modules()))

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        for layer in self.frozen_norms():
            layer.training = False  # of the layer alone: an activation inside it is trained
        return self

    def frozen_norms(self) -> Iterator[nn.Module]:
        """The batch norms whose statistics stay as they are; none with ``batch_norm="batch"``."""
        return filter(_is_batch_norm, self.modules() if self.batch_norm == "frozen" else ())

    def features(self, images: Tensor) -> Features:
        """Feature map and embedding of ``(B, 3, H, W)`` normalised images; gradients flow to the images.

        The embedding is pooled from this very map, so its gradient with respect to the map can be asked for, unless
        :attr:`EncoderInfo.pools_map` is false.
        """
        images = images.contiguous(memory_format=self._format)
        run = (
            compiled_version(forward_features) if self._runs_compiled(images) else forward_features
        )
        hidden, feature_map = run(self.model, images, self._shapes.map_beside)
        if not self._shapes.map_beside:
            feature_map = as_map(self.model, hidden)
            hidden = from_map(self.model, feature_map, hidden)
        return Features(feature_map, self.model.forward_head(hidden, pre_logits=True))

    def forward(self, images: Tensor) -> Tensor:
        """The embedding alone: ``(B, 3, H, W) -> (B, D)``."""
        if self._runs_compiled(images):
            return self.features(images).embedding
        return self.model(images.contiguous(memory_format=self._format))

    def _runs_compiled(self, images: Tensor) -> bool:
        return self.compiled and self.training and not images.requires_grad

    def stages(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Hidden states of the next forward pass (:func:`~ppssl.utils.timm_features.recorded_stages`)."""
        return recorded_stages(self.model)


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _is_convolutional(model: nn.Module) -> bool:
    """Whether channels_last pays: an encoder of convolutions, not one whose only convolution makes patches."""
    return sum(isinstance(m, nn.Conv2d) for m in model.modules()) > 3


def load_encoder(path: str | Path, backbone: nn.Module | None = None) -> nn.Module:
    """Load the encoder of a checkpoint in evaluation mode: ``(B, 3, H, W) -> (B, D)``.

    It is a timm model, or a :class:`~ppssl.utils.module_encoder.ModuleEncoder` of the module that was trained. Needs
    neither the data set nor the plugins nor transformers.

    Args:
        path: A checkpoint of ``ppssl fit``.
        backbone: A module like the one that was trained, where its arguments cannot be told; ``None``: as saved.

    Raises:
        UserError: No such file, no checkpoint of ppssl, a module that has to be given, a foreign class, or weights that
            do not fit, naming the keys.
    """
    checkpoint = read_checkpoint(path)
    model = model_of_checkpoint(checkpoint["ppssl"]["encoder"], backbone)
    load_strictly(model, encoder_part(checkpoint["state_dict"]), str(path))
    return model.eval()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context in which a model is in evaluation mode; afterwards each submodule is back in its previous mode."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
