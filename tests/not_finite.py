"""Loss plugins and an encoder that are not finite for one image, from the middle of the run on."""

import torch
from torch import Tensor, nn

from ppssl import LossPlugin, LossTerm, TrainingStep


class Logarithm(nn.Module):
    """Logarithm, of 1 + x: NaN below -1."""

    def forward(self, x: Tensor) -> Tensor:
        return (1 + x).log()


class LogOfImage(LossPlugin):
    """The logarithm of a negative number for one image."""

    def __init__(self, image: int = 5, start: float = 0.5) -> None:
        super().__init__()
        self.image, self.start = image, start
        self.layer = Logarithm()

    def forward(self, step: TrainingStep) -> LossTerm:
        broken = (step.batch["index"] == self.image) & (step.progress >= self.start)
        norm = step.embedding.square().mean(dim=1)
        return LossTerm(self.layer(norm - 1e3 * broken * norm.detach()))


class Overflow(LossPlugin):
    """A number of 10^60 for one image: too large for float32."""

    def __init__(self, image: int = 5, start: float = 0.5) -> None:
        super().__init__()
        self.image, self.start = image, start

    def forward(self, step: TrainingStep) -> LossTerm:
        broken = (step.batch["index"] == self.image) & (step.progress >= self.start)
        exponent = step.embedding.square().mean(dim=1) + 138.0 * broken
        return LossTerm(exponent.exp())


class Network(nn.Module):
    """Encoder with a square root that is NaN for images whose mean is below a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4)
        self.root = SquareRoot()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(
            self.stem(images) + self.root(images.mean(dim=(1, 2, 3)))[:, None, None, None]
        )


class SquareRoot(nn.Module):
    """Square root of a number plus 3: NaN where a whole normalised view is nearly black."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(x + 1.7)
