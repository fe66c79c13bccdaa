"""The images of an embedding file that are nearest to an image, and a picture of them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.images import read_image
from ppssl.data.transforms import center_view
from ppssl.encoder import evaluation_mode
from ppssl.inference.embed import fingerprint, read_description, read_embeddings
from ppssl.inference.features import feature_encoder
from ppssl.metrics.retrieval import cosine_similarity, unit_rows
from ppssl.utils.errors import UserError
from ppssl.utils.plots.neighbours import neighbour_panel

__all__ = ["Neighbour", "neighbours"]

_SHOWN_PIXELS = 256


@dataclass(frozen=True)
class Neighbour:
    """An image of an embedding file.

    Attributes:
        similarity: Cosine of the embeddings, in [-1, 1].
        path: Of the image, or its name where it has no file of its own.
        split: Where it is from.
        class_name: Its class; ``None`` where unknown.
        index: Its number in the full data set.
    """

    similarity: float
    path: str
    split: str
    class_name: str | None
    index: int


def neighbours(
    image: str | Path,
    embeddings: str | Path,
    model: nn.Module | str | Path,
    *,
    k: int = 8,
    out: str | Path | None = None,
    data: FineGrainedDataModule | None = None,
) -> list[Neighbour]:
    """The k nearest images by cosine similarity, nearest first; the file is read in parts.

    Args:
        image: An image file. It is not looked for itself: an image of the file finds itself.
        embeddings: A file of :func:`~ppssl.inference.embed.embed`.
        model: The encoder that wrote it: a timm model, a model of ppssl, or the path of a checkpoint.
        k: How many, >= 1; fewer where the file has fewer.
        out: Draw them to this file (its ending tells the format).
        data: Where the images come from that have no files of their own (synthetic ones, Parquet).

    Raises:
        UserError: The image cannot be read, the embeddings are another encoder's, or an image cannot be shown.
    """
    if k < 1:
        raise ValueError(f"`k` must be >= 1, got {k}.")
    original = _read(Path(image))
    query = _embed(original, embeddings, model)
    found: list[Neighbour] = []
    for rows, names in read_embeddings(embeddings):
        similarity = cosine_similarity(query, unit_rows(rows.features))[0]
        best = similarity.topk(min(k, len(similarity)))
        for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row = names[i]
            found.append(
                Neighbour(value, row["path"], row["split"], row["class"], int(rows.index[i]))
            )
        found = sorted(found, key=lambda n: (-n.similarity, n.index))[:k]
    if out is not None:
        shown = [_thumbnail(original), *(_thumbnail(_original(n, data)) for n in found)]
        titles = [
            Path(image).name,
            *(f"{n.class_name or Path(n.path).name}\n{n.similarity:.3f}" for n in found),
        ]
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        neighbour_panel(shown, titles).savefig(out, dpi=120)
    return found


@torch.inference_mode()
def _embed(image: Image.Image, embeddings: str | Path, model: nn.Module | str | Path) -> Tensor:
    """``(1, D)`` float64, of unit length."""
    description = read_description(embeddings)
    encoder = feature_encoder(model, description.feature)
    if fingerprint(encoder) != description.encoder:
        raise UserError(
            f"The embeddings in {embeddings} were made by another encoder: give its checkpoint, or embed again."
        )
    cfg = encoder.pretrained_cfg
    mean, std = (torch.tensor(cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    view = center_view(image, description.image_size, description.eval_crop)[None].float() / 255
    with evaluation_mode(encoder):
        return unit_rows(encoder(((view - mean) / std).to(next(encoder.parameters()).device)).cpu())


def _read(path: Path) -> Image.Image:
    try:
        return read_image(path)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the image {path}: {error}. Give an image file.") from error


def _original(neighbour: Neighbour, data: FineGrainedDataModule | None) -> Image.Image:
    if data is not None:
        data.setup()
        split, number = data.locate(neighbour.index)
        return data.sources[split].load(number)
    if not Path(neighbour.path).is_file():
        raise UserError(
            f"`{neighbour.path}` is no file here, so it cannot be shown: give `--data RECIPE` where the images come "
            "from, or leave out `--out`."
        )
    return _read(Path(neighbour.path))


def _thumbnail(image: Image.Image) -> Tensor:
    """``(3, H, W)`` uint8, no larger than what is drawn."""
    small = image.copy()
    small.thumbnail((_SHOWN_PIXELS, _SHOWN_PIXELS))
    return pil_to_tensor(small)
