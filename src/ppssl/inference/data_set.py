"""The data set of an encoder: the one that is given, else the one that its checkpoint was trained on."""

from pathlib import Path
from typing import Any

from ppssl.checkpointing.data_set import data_of_checkpoint
from ppssl.checkpointing.files import read_checkpoint
from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.utils.argument_types import kind_of
from ppssl.utils.errors import UserError
from ppssl.utils.paths import PATH_TYPES

__all__ = ["data_for", "data_or_embeddings", "is_embedding_file"]


def data_for(model: Any, data: Any = None) -> FineGrainedDataModule:
    """The data set to embed, of functions and commands alike.

    Args:
        model: A model, or the path of a checkpoint.
        data: The data set; ``None``: the one that the checkpoint was trained on.

    Raises:
        UserError: There is none, or it is no data module of ppssl; the checkpoint cannot be read.
    """
    if data is None:
        if not isinstance(model, PATH_TYPES):
            raise UserError(
                "`data` is missing: a model in memory names no data set. Give one, or the path of a checkpoint in "
                "place of the model."
            )
        data = data_of_checkpoint(read_checkpoint(model)["ppssl"], model)
    if not isinstance(data, FineGrainedDataModule):
        raise UserError(
            f"`data` must be a data module of ppssl, got {kind_of(data)}: `ppssl.DatasetDataModule(train)` takes any "
            "data set, `ppssl.FolderDataModule(root)` a folder."
        )
    return data


def data_or_embeddings(model: Any, data: Any = None) -> FineGrainedDataModule | None:
    """As :func:`data_for`; ``None`` if the model is the path of a file of embeddings, which has its own labels.

    Raises:
        UserError: As :func:`data_for`; a data set is given beside a file of embeddings.
    """
    if not is_embedding_file(model):
        return data_for(model, data)
    if data is not None:
        raise UserError(
            f"{model} is a file of embeddings, which has its own labels: remove `data`."
        )
    return None


def is_embedding_file(model: Any) -> bool:
    """Whether a model is the path of a file of embeddings."""
    return isinstance(model, PATH_TYPES) and Path(model).suffix == ".parquet"
