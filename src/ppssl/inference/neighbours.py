"""Nearest neighbours of an image among the images of an embedding file, as a list and as a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.normalisation import Normalisation
from ppssl.data.transforms import center_view
from ppssl.encoder import evaluation_mode
from ppssl.inference.embed import check_same_images, fingerprint
from ppssl.inference.embedding_file import Description, read_description, read_embeddings
from ppssl.inference.embeddings import feature_encoder
from ppssl.inference.image_files import ImageFiles
from ppssl.metrics.retrieval import cosine_similarity, unit_rows
from ppssl.utils.device import placement
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.paths import AnyPath, expand, writable_figure, writing
from ppssl.utils.plots.neighbours import neighbour_panel

__all__ = ["Neighbour", "draw_neighbours", "neighbours"]

_THUMBNAIL_PIXELS = 256


@dataclass(frozen=True)
class Neighbour:
    """One neighbour: an image of an embedding file, and its similarity to the query.

    Attributes:
        similarity: Cosine similarity of the embeddings, in [-1, 1].
        path: Path of the image, or its name where it has no file.
        split: Split of the image.
        class_name: Class of the image; ``None`` where unknown.
        index: Number of the image in the full data set.
    """

    similarity: float
    path: str
    split: str
    class_name: str | None
    index: int


def neighbours(
    image: AnyPath,
    embeddings: AnyPath,
    model: nn.Module | AnyPath,
    *,
    k: int = 8,
    out: AnyPath | None = None,
    data: FineGrainedDataModule | None = None,
) -> list[Neighbour]:
    """Find the k images of an embedding file that are nearest to an image by cosine similarity.

    The file is read in batches of rows, so it need not fit into memory.

    Args:
        image: The query, an image file. If the query is in the embedding file, it is its own nearest neighbour.
        embeddings: A file written by :func:`~ppssl.inference.embed.embed`.
        model: The encoder that the embeddings are from: a timm model, a model of ppssl, or the path of a checkpoint.
        k: Number of neighbours, >= 1; fewer are returned if the file has fewer images.
        out: Draw the neighbours to this file; the suffix chooses the format.
        data: Data set that the images are read from where they have no files (synthetic images, Parquet).

    Returns:
        The neighbours, nearest first.

    Raises:
        UserError: The image cannot be read, the embeddings are from another encoder or not of ``data``, or a neighbour
            cannot be drawn.
    """
    if k < 1:
        raise ArgumentError(f"`k` must be >= 1, got {k}.")
    if out is not None:
        writable_figure(out)
    if data is not None:
        data.setup()
        check_same_images(embeddings, data)
    description = read_description(embeddings)
    query = ImageFiles([expand(image)], description.bit_depth).read(0)
    query_embedding = _embed(query, description, model, embeddings)
    nearest: list[Neighbour] = []
    for rows, columns in read_embeddings(embeddings):
        similarity = cosine_similarity(query_embedding, unit_rows(rows.features))[0]
        best = similarity.topk(min(k, len(similarity)))
        for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row = columns[i]
            nearest.append(
                Neighbour(value, row["path"], row["split"], row["class"], int(rows.index[i]))
            )
        nearest = sorted(nearest, key=lambda n: (-n.similarity, n.index))[:k]
    if out is not None:
        draw_neighbours(image, nearest, out, data, description.bit_depth)
    return nearest


def draw_neighbours(
    image: AnyPath,
    nearest: Sequence[Neighbour],
    out: AnyPath,
    data: FineGrainedDataModule | None = None,
    bit_depth: int | None = None,
) -> None:
    """Draw an image and its neighbours to a file; the arguments are those of :func:`neighbours`.

    ``bit_depth`` is that of the embeddings (:class:`~ppssl.inference.embedding_file.Description`).

    Raises:
        UserError: A neighbour cannot be read, or the file cannot be written.
    """
    out = writable_figure(out)
    images = [ImageFiles([expand(image)], bit_depth).read(0)]
    images += [_neighbour_image(n, data, bit_depth) for n in nearest]
    titles = [Path(image).name]
    titles += [f"{n.class_name or Path(n.path).name}\n{n.similarity:.3f}" for n in nearest]
    figure = neighbour_panel([_thumbnail(i) for i in images], titles)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=120)


@torch.inference_mode()
def _embed(
    image: Image.Image, description: Description, model: nn.Module | AnyPath, embeddings: AnyPath
) -> Tensor:
    """Embed the query with the preprocessing of the embedding file: ``(1, D)`` float64, of unit length."""
    encoder = feature_encoder(model, description.feature)
    if fingerprint(encoder) != description.encoder:
        raise UserError(
            f"The embeddings in {embeddings} are from another encoder: give the checkpoint of that encoder, or run "
            "`ppssl embed` with this one."
        )
    cfg = encoder.pretrained_cfg
    view = Normalisation(cfg["mean"], cfg["std"])(center_view(image, *description.view)[None])
    with evaluation_mode(encoder):
        return unit_rows(encoder(view.to(*placement(encoder))).cpu())


def _neighbour_image(
    neighbour: Neighbour, data: FineGrainedDataModule | None, bit_depth: int | None
) -> Image.Image:
    """The image of a neighbour, from the data set if there is one, else from its file."""
    if data is not None:
        data.setup()
        split, number = data.locate(neighbour.index)
        return data.sources[split].load(number)
    if not Path(neighbour.path).is_file():
        raise UserError(
            f"Cannot draw the neighbour `{neighbour.path}`: no such file. Give the data set with `--data RECIPE`, or "
            "leave out `--out`."
        )
    return ImageFiles([Path(neighbour.path)], bit_depth).read(0)


def _thumbnail(image: Image.Image) -> Tensor:
    """A copy of an image, reduced to the size in the figure: ``(3, H, W)`` uint8."""
    small = image.copy()
    small.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    return pil_to_tensor(small)
