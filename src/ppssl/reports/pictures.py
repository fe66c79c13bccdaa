"""Small pictures inside the page, as data URIs: single ones, and many in one sheet."""

import base64
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ppssl.data.datamodule import FineGrainedDataModule

__all__ = ["Pictures", "data_uri", "heatmap"]

SIZE = 112
"""Height and width of a picture in pixels."""
TILE = 56
"""Height and width of a picture in a sheet."""
COLUMNS = 50
"""Pictures in a row of a sheet."""
_QUALITY = 80


class Pictures:
    """Pictures of the images of a data set.

    Args:
        data: The data set, after its ``setup``.
    """

    def __init__(self, data: FineGrainedDataModule) -> None:
        self.data = data
        self._uris: dict[int, str] = {}

    def name(self, index: int) -> str:
        """Short name of an image: its last folder and its file, or its number."""
        split, number = self.data.locate(index)
        name = self.data.sources[split].name(number)
        return f"{split}, " + "/".join(name.replace("\\", "/").split("/")[-1:])

    def uri(self, index: int) -> str:
        """The largest square in the middle of an image, by its number in the data set."""
        if index not in self._uris:
            self._uris[index] = data_uri(self._square(index, SIZE))
        return self._uris[index]

    def sheet(self, index: Tensor) -> str:
        """Pictures of many images ``(N,)`` in one, :data:`COLUMNS` to a row."""
        rows = -(-len(index) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * TILE, rows * TILE))
        for place, i in enumerate(index.tolist()):
            row, column = divmod(place, COLUMNS)
            sheet.paste(self._square(i, TILE), (column * TILE, row * TILE))
        return data_uri(sheet, quality=60)

    def view(self, index: int) -> Tensor:
        """What the encoder sees of an image in evaluation, ``(3, S, S)`` uint8."""
        split, number = self.data.locate(index)
        return self.data.eval_dataset(split, np.array([number]))[0]["image"]

    def _square(self, index: int, size: int) -> Image.Image:
        split, number = self.data.locate(index)
        image = self.data.sources[split].load_reduced(number, size)
        return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def data_uri(image: Image.Image, *, quality: int = _QUALITY) -> str:
    """An RGB image as the data URI of a JPEG."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def heatmap(image: Tensor, values: Tensor) -> str:
    """A saliency map over the grey image, as a data URI.

    Args:
        image: ``(3, H, W)`` uint8.
        values: ``(h, w)`` >= 0, drawn from 0 to its 99.5 % quantile, which a single pixel does not change, without
            interpolation.
    """
    from matplotlib import colormaps

    height, width = image.shape[-2:]
    values = values.float().cpu()
    top = values.quantile(0.995).clamp(min=1e-12) if values.any() else torch.tensor(1.0)
    scaled = (values / top).clamp(max=1)
    large = torch.nn.functional.interpolate(scaled[None, None], (height, width))[0, 0]
    colours = colormaps["inferno"](large.numpy())[..., :3] * 255
    grey = image.float().mean(dim=0).numpy()[..., None]
    pixels = (0.35 * grey + 0.65 * colours).round().clip(0, 255).astype(np.uint8)
    return data_uri(Image.fromarray(pixels))
