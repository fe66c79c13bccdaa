"""Arguments may be scalars of NumPy, such as the rates of ``np.logspace``: files hold plain numbers."""

from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Trainer

from ppssl import (
    IADM,
    PPSSL,
    Anchor,
    FineTune,
    MoCo,
    MoCoV2Augmentation,
    SyntheticDataModule,
    embed,
)
from ppssl.evaluation.evaluate_rows import evaluate_rows
from ppssl.utils.config import is_object
from ppssl.utils.instantiate import resolve_class
from ppssl.utils.results import write_json

SMALL: dict[str, Any] = {"backbone": "test_resnet", "seed": 1, "init_seed": 2, "lr": 1e-3}
TINY_DATA = {"train_size": 16, "test_size": 4, "num_classes": 2, "image_size": 32, "seed": 0}


def _as_numpy(value: Any) -> Any:
    """An object or plain data with NumPy's scalar for each number and text."""
    if is_object(value):
        return resolve_class(value["class_path"])(**_as_numpy(value["init_args"]))
    if isinstance(value, dict):
        return {name: _as_numpy(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_as_numpy, value))
    kinds: dict[type, type] = {float: np.float64, int: np.int64, str: np.str_}
    return kinds.get(type(value), lambda same: same)(value)


@pytest.mark.parametrize(
    ("model", "augmentation"),
    [
        (
            PPSSL(
                **SMALL,
                contrastive=MoCo(prefill="random", queue_size=16),
                plugins={"iadm": IADM(), "anchor": Anchor()},
            ),
            MoCoV2Augmentation(),
        ),
        (FineTune(**SMALL, num_classes=2), None),
    ],
    ids=["PPSSL", "FineTune"],
)
def test_all_arguments_may_be_numpys(model: Any, augmentation: Any, tmp_path: Any) -> None:
    plain = SyntheticDataModule(
        **TINY_DATA, batch_size=8, num_workers=0, augmentation=augmentation
    ).config()
    given, data = _as_numpy(model.config()), _as_numpy(plain)
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    trainer.fit(given, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = type(model).load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.config() == given.config() == model.config()
    assert data.config() == plain
    if isinstance(model, PPSSL):
        assert embed(again, data, tmp_path / "e.parquet")
        rows = evaluate_rows(given, data, label_fractions=[np.float32(0.5)], random=True)
        write_json(tmp_path / "rows.json", {"rows": [row.to_dict() for row in rows]})
