"""Training steps that ``ppssl bench step`` times: variants of ours, and those of other implementations."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ppssl.encoder import BatchNormPolicy
from ppssl.losses.ais.plugin import AIS
from ppssl.losses.contrastive import BYOL, ContrastiveObjective, MoCo, MoCoV3, SimCLR
from ppssl.losses.iadm.plugin import IADM
from ppssl.losses.loss_plugin import LossPlugin
from ppssl.module import PPSSL
from ppssl.studies.peers import PEERS
from ppssl.text.bank import TextBank
from ppssl.text.corpus import TextCorpus
from ppssl.utils.device import resolve_device
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.optim import make_optimizer, weight_decay_groups
from ppssl.utils.randomness import seed_step, torch_seed

__all__ = [
    "BASELINE",
    "DEFAULT_VARIANTS",
    "VARIANTS",
    "Precision",
    "Step",
    "StepSettings",
    "Variant",
    "installed_peers",
    "make_step",
    "peer_variants",
    "update",
]

Precision = Literal["32-true", "bf16-mixed"]
NUM_IMAGES = 4096
"""Size of the data set, which determines the size of the text bank."""
NUM_TEXTS = 300
"""Number of descriptions in the text bank."""
TOTAL_STEPS = 5000
CHANNELS_LAST = ", channels_last"


@dataclass(frozen=True)
class StepSettings:
    """What all variants have in common.

    Attributes:
        backbone: Any timm model name, or ``resnet_small``.
        batch_size: Images per step.
        image_size: Height and width in pixels.
        precision: ``"32-true"``, or ``"bf16-mixed"``: the forward pass under autocast.
        queue_size: Number of keys in the queue.
    """

    backbone: str = "resnet50"
    batch_size: int = 16
    image_size: int = 224
    precision: Precision = "32-true"
    queue_size: int = 4096


class Step(NamedTuple):
    """An optimizer step, ``run(number of the step)``, and after how many steps the work repeats."""

    run: Callable[[int], None]
    period: int = 1


@dataclass(frozen=True)
class Variant:
    """A variant of ours.

    Attributes:
        ais: Whether the model has AIS.
        every: In which steps IADM computes A*: every n-th; ``None``: without IADM.
        batch_norm: Statistics of batch norm, see :class:`~ppssl.encoder.Encoder`.
        encoder_only: Only forward and backward pass of the encoder, and the optimizer.
        base: Creates the contrastive objective; ``None``: MoCo v2.
    """

    ais: bool = False
    every: int | None = None
    batch_norm: BatchNormPolicy = "batch"
    encoder_only: bool = False
    base: Callable[[], ContrastiveObjective] | None = None

    def plugins(self) -> dict[str, LossPlugin]:
        """The loss plugins: IADM with full weight from the first step, AIS with a bank of random vectors."""
        plugins: dict[str, LossPlugin] = {"ais": _random_ais()} if self.ais else {}
        if self.every is not None:
            plugins["iadm"] = IADM(start=0, full=0, every=self.every)
        return plugins


EVERY = IADM().every
"""IADM's default."""
BASELINE = "plain"
VARIANTS = {
    "encoder": Variant(encoder_only=True),
    "plain": Variant(),
    "ais": Variant(ais=True),
    "iadm": Variant(every=EVERY),
    "full": Variant(ais=True, every=EVERY),
    "full, every 1": Variant(ais=True, every=1),
    "full, every 2": Variant(ais=True, every=2),
    "plain, frozen": Variant(batch_norm="frozen"),
    "full, frozen": Variant(ais=True, every=EVERY, batch_norm="frozen"),
    "simclr": Variant(base=SimCLR),
    "byol": Variant(base=BYOL),
    "moco_v3": Variant(base=MoCoV3),
}
"""Variants of ours: ``plain`` is MoCo v2, ``full`` with AIS and IADM by their defaults; the last are other bases."""
DEFAULT_VARIANTS = ("encoder", "plain", "ais", "iadm", "full")


class _RandomBank(AIS):
    """AIS whose bank is attached, not made."""

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Keep the bank."""


def _random_ais() -> AIS:
    """AIS over a bank of random vectors: the cost of AIS once the bank is made."""
    draw = torch.Generator().manual_seed(0)
    texts, images = (
        F.normalize(torch.randn(n, 512, generator=draw), dim=1) for n in (NUM_TEXTS, NUM_IMAGES)
    )
    corpus = TextCorpus([f"description {j}" for j in range(NUM_TEXTS)])
    plugin = _RandomBank("random")
    bank = TextBank(corpus, texts, images[:, None].half(), images.mean(dim=0), 0, temperature=0.01)
    plugin.attach(bank)
    return plugin


def installed_peers() -> list[str]:
    """The default peers: lightly if it is installed."""
    return ["lightly"] if importlib.util.find_spec("lightly") else []


def peer_variants(peers: Sequence[str], *, channels_last: bool) -> list[str]:
    """Names of the variants of peers; with ``channels_last`` also those in that memory format.

    Raises:
        UserError: lightly is to be timed and is not installed.
        ValueError: No such peer.
    """
    for name in peers:
        if name not in PEERS:
            raise ArgumentError(f"`peer` must be one or more of {', '.join(PEERS)}, got {name!r}.")
    if "lightly" in peers and not installed_peers():
        raise UserError("`--peer lightly` needs the package lightly: pip install lightly.")
    endings = ("", CHANNELS_LAST) if channels_last else ("",)
    return [name + ending for name in peers for ending in endings]


def make_step(name: str, settings: StepSettings) -> Step:
    """Create the model, optimizer and batch of a variant of ours or of a peer on the device that there is."""
    torch.manual_seed(0)
    device = resolve_device("auto")
    if name in VARIANTS:
        return _our_step(VARIANTS[name], settings, device)
    peer = name.removesuffix(CHANNELS_LAST)
    return _peer_step(peer, settings, device, channels_last=peer != name)


def _our_step(variant: Variant, settings: StepSettings, device: torch.device) -> Step:
    """A step as the Trainer takes it: losses, backward pass, queue, optimizer, momentum update."""
    plugins = variant.plugins()
    base = variant.base or partial(MoCo, queue_size=settings.queue_size, prefill="random")
    model = PPSSL(
        settings.backbone,
        image_size=settings.image_size,
        batch_norm=variant.batch_norm,
        contrastive=base(),
        plugins=plugins,
    )
    model.build(NUM_IMAGES)
    model.to(device).train()
    optimizer = make_optimizer(
        weight_decay_groups(model, model.weight_decay), model.optimizer, lr=1e-3, fused=True
    )
    views = _random_views(settings, device, torch.channels_last)  # as the data module's
    batch = {"views": views, "index": torch.arange(settings.batch_size, device=device)}

    def run(number: int) -> None:
        seed_step(0, number, number, 0)
        with _autocast(settings, device):
            if variant.encoder_only:
                loss = model.encoder(views[0]).float().square().mean()
            else:
                seed = torch_seed(0, "shared step", number, number)
                loss, _ = model.losses(batch, seed=seed, progress=0.5, number=number)
        update(model, optimizer, loss, keys=not variant.encoder_only)

    return Step(run, variant.every or 1)


def update(
    model: PPSSL, optimizer: torch.optim.Optimizer, loss: Tensor, *, keys: bool = True
) -> None:
    """What follows the loss in a step as the Trainer takes it; without ``keys`` no momentum update."""
    optimizer.zero_grad()
    loss.backward()
    model.on_after_backward()
    optimizer.step()
    if keys:
        model.contrastive.after_step(model.encoder, progress=0.5, total_steps=TOTAL_STEPS)


def _peer_step(
    name: str, settings: StepSettings, device: torch.device, *, channels_last: bool
) -> Step:
    """A step of another implementation, as its example takes it."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = PEERS[name](settings.backbone, settings.queue_size, settings.image_size)
    model = model.to(device).to(memory_format=memory_format).train()
    views = _random_views(settings, device, memory_format)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def run(number: int) -> None:
        with _autocast(settings, device):
            loss = model(*views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Step(run)


def _random_views(
    settings: StepSettings, device: torch.device, memory_format: torch.memory_format
) -> list[Tensor]:
    shape = (settings.batch_size, 3, settings.image_size, settings.image_size)
    draw = partial(torch.randn, shape, device=device)
    return [draw().contiguous(memory_format=memory_format) for _ in range(2)]


def _autocast(settings: StepSettings, device: torch.device) -> torch.autocast:
    mixed = settings.precision == "bf16-mixed"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed)
