"""Rows: checkpoints, weights, embeddings and banks, cut, flipped and exchanged."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from faults.damage import Damage, blank, cut, flipped, followed_by, missing, replaced
from faults.outcome import Row, World
from faults.rows_texts import changed

READERS = {
    "evaluate": "evaluate $here/x.ckpt",
    "embed": "embed $here/x.ckpt --out $here/e.parquet",
    "explain": "explain $here/x.ckpt $image --out $here/o",
    "export": "export $here/x.ckpt --to onnx --out $here/o",
    "--resume": "$fit --trainer.max_epochs=2 --resume=$here/x.ckpt",
    "--ckpt_path": "$fit --trainer.max_epochs=2 --ckpt_path=$here/x.ckpt",
    "pretrained": "$fit --model.pretrained=$here/x.ckpt",
    "finetune": "$finetune --model.pretrained=$here/x.ckpt",
    "bench saliency": "bench saliency --checkpoints $here/x.ckpt --images 4 --out $here/o",
    "predict": "predict --config ppssl:folder/pretrain $where $small --ckpt_path=$here/x.ckpt",
    "neighbours": "neighbours $image --embeddings $embeddings --checkpoint $here/x.ckpt",
}
DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (replaced(b""), "line"),
    "cut at 1 %": (cut(0.01), "line"),
    "cut at 50 %": (cut(0.5), "line"),
    "cut at 99 %": (cut(0.99), "line"),
    "a block of zeros at a random place": (blank(0, 4096), "either"),
    "a block left out": (missing(0, 4096), "line"),
    "zeros": (replaced(bytes(100_000)), "line"),
    "HTML of a login page": (replaced(b"<!DOCTYPE html><html>Sign in</html>"), "line"),
    "a pointer of Git LFS": (replaced(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"), "line"),
}  # fmt: skip
TORN = [
    Row(f"{reader}: a checkpoint, {what}", command, expected, "x.ckpt" if expected == "line" else "", changed("last", "x.ckpt", damage))
    for i, (what, (damage, expected)) in enumerate(DAMAGES.items())
    for j, (reader, command) in enumerate(READERS.items())
    if (i + j) % 3 == 0
]  # fmt: skip


def same_weights(here: Path, world: World) -> None:
    """A flip that is taken is one that changes nothing."""
    read = [
        torch.load(path, weights_only=True)["state_dict"]
        for path in (here / "x.ckpt", world["last"])
    ]
    assert all(torch.equal(read[0][name], value) for name, value in read[1].items())


FLIPPED = [
    Row(f"{reader}: a checkpoint, a bit flipped ({seed})", READERS[reader], "either", "", changed("last", "x.ckpt", flipped(seed)), same_weights)
    for seed in range(16)
    for reader in [("evaluate", "--resume", "pretrained", "embed")[seed % 4]]
] + [
    Row(f"{reader}: a checkpoint, 2,000 bits flipped ({seed})", READERS[reader], "line", "x.ckpt", changed("last", "x.ckpt", flipped(seed, 2000)))
    for seed, reader in enumerate(READERS)
]  # fmt: skip


def edited(
    edit: Callable[[dict[str, Any]], Any], good: str = "last"
) -> Callable[[Path, World], None]:
    """Makes a checkpoint whose content was changed."""

    def make(here: Path, world: World) -> None:
        content = torch.load(world[good], weights_only=True)
        result = edit(content)
        torch.save(content if result is None else result, here / "x.ckpt")

    return make


def _first(content: dict[str, Any]) -> str:
    return next(name for name, value in content["state_dict"].items() if value.ndim == 4)


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda c: [1, 2], "ppssl"),
    "a tensor": (lambda c: torch.ones(3), "ppssl"),
    "no entry of ppssl": (lambda c: c.pop("ppssl") and None, "ppssl"),
    "an entry that is a number": (lambda c: c.update(ppssl=3), ""),
    "an entry without a model": (lambda c: c["ppssl"].pop("model") and None, ""),
    "a model without a class": (lambda c: c["ppssl"]["model"].pop("class_path") and None, ""),
    "a model without arguments": (lambda c: c["ppssl"]["model"].pop("init_args") and None, ""),
    "arguments that are a list": (lambda c: c["ppssl"]["model"].update(init_args=[1]), ""),
    "an argument too many": (lambda c: c["ppssl"]["model"]["init_args"].update(nothing=1), "nothing"),
    "an argument of another type": (lambda c: c["ppssl"]["model"]["init_args"].update(backbone=3), ""),
    "another encoder": (lambda c: c["ppssl"]["model"]["init_args"].update(backbone="resnet18"), ""),
    "an encoder that does not exist": (lambda c: c["ppssl"]["model"]["init_args"].update(backbone="no_such"), "no_such"),
    "a newer schema": (lambda c: c["ppssl"].update(schema_version=99), "schema 99|newer"),
    "a schema that is text": (lambda c: c["ppssl"].update(schema_version="new"), ""),
    "no weights": (lambda c: c.pop("state_dict") and None, ""),
    "weights that are a list": (lambda c: c.update(state_dict=[1]), ""),
    "a weight missing": (lambda c: c["state_dict"].pop(_first(c)) is None, ""),
    "a weight too many": (lambda c: c["state_dict"].update({"encoder.model.more": torch.ones(2)}), "more"),
    "a weight of another shape": (lambda c: c["state_dict"].update({_first(c): torch.ones(2, 2)}), ""),
    "a weight that is text": (lambda c: c["state_dict"].update({_first(c): "x"}), ""),
    "weights that are nan": (lambda c: c["state_dict"].update({k: v * float("nan") for k, v in c["state_dict"].items() if v.is_floating_point()}), "finite|nan"),
    "data of an unknown class": (lambda c: c["ppssl"].update(data={"class_path": "mine.Data", "init_args": {}}), "mine.Data"),
    "images that have moved": (lambda c: c["ppssl"]["data"]["init_args"].update(root="/nowhere"), "/nowhere"),
}  # fmt: skip
NOT_NEEDED = ("an argument too many", "an argument of another type", "another encoder", "an encoder that does not exist",
              "data of an unknown class", "images that have moved")  # fmt: skip
"""Parts that some commands do not read."""
FOREIGN = [
    Row(f"{reader}: a checkpoint with {what}", READERS[reader], "either" if what in NOT_NEEDED or reader == "pretrained" else "line", says, edited(edit))
    for i, (what, (edit, says)) in enumerate(EDITS.items())
    for reader in (("evaluate", "pretrained", "--resume"), ("embed", "--resume", "explain"))[i % 2]
]  # fmt: skip


def _changed_table(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path, World], None]:
    def make(here: Path, world: World) -> None:
        pq.write_table(change(pq.read_table(world["embeddings"])), here / "e.parquet")

    return make


def _filled(table: pa.Table, name: str, value: Any) -> pa.Table:
    old = table[name].to_pylist()
    new = [value(v) if callable(value) else value for v in old]
    return table.set_column(
        table.column_names.index(name), name, pa.array(new, table.schema.field(name).type)
    )


EMBEDDED = {"evaluate": "evaluate $here/e.parquet", "neighbours": "neighbours $image --embeddings $here/e.parquet --checkpoint $last"}  # fmt: skip
TABLES: dict[str, tuple[Callable[[pa.Table], pa.Table], str, str]] = {
    "no rows": (lambda t: t.slice(0, 0), "line", ""),
    "one row": (lambda t: t.slice(0, 1), "either", ""),
    "no description": (lambda t: t.replace_schema_metadata({}), "line", "e.parquet"),
    "a description that is no JSON": (lambda t: t.replace_schema_metadata({"ppssl": "{"}), "line", "e.parquet"),
    "a description that is a list": (lambda t: t.replace_schema_metadata({"ppssl": "[]"}), "line", "e.parquet"),
    "no embeddings": (lambda t: t.drop_columns(["embedding"]), "line", "embedding"),
    "no labels": (lambda t: t.drop_columns(["label"]), "line", "label"),
    "no splits": (lambda t: t.drop_columns(["split"]), "line", "split"),
    "an unknown split": (lambda t: _filled(t, "split", "dev"), "line", ""),
    "one label": (lambda t: _filled(t, "label", 0), "either", ""),
    "labels that are -1": (lambda t: _filled(t, "label", -1), "either", ""),
    "labels of -7": (lambda t: _filled(t, "label", -7), "line", ""),
    "a number twice": (lambda t: _filled(t, "index", 0), "line", ""),
    "embeddings that are nan": (lambda t: _filled(t, "embedding", lambda v: [float("nan")] * len(v)), "line", "finite|nan"),
    "embeddings that are infinite": (lambda t: _filled(t, "embedding", lambda v: [float("inf")] * len(v)), "line", "finite|inf"),
    "embeddings that are 0": (lambda t: _filled(t, "embedding", lambda v: [0.0] * len(v)), "either", ""),
    "embeddings of two lengths": (lambda t: t.set_column(t.column_names.index("embedding"), "embedding", pa.array([[1.0] * (3 + i % 2) for i in range(t.num_rows)], pa.list_(pa.float32()))), "line", ""),
    "embeddings that are text": (lambda t: t.set_column(t.column_names.index("embedding"), "embedding", pa.array(["x"] * t.num_rows)), "line", ""),
    "embeddings that are null": (lambda t: t.set_column(t.column_names.index("embedding"), "embedding", pa.array([None] * t.num_rows, t.schema.field("embedding").type)), "line", ""),
    "labels that are text": (lambda t: t.set_column(t.column_names.index("label"), "label", pa.array(["x"] * t.num_rows)), "line", ""),
}  # fmt: skip
EMBEDDINGS = [
    *(Row(f"{reader}: embeddings with {what}", command, expected, says, _changed_table(change))
      for what, (change, expected, says) in TABLES.items() for reader, command in EMBEDDED.items()),
    *(Row(f"embeddings, {what}", EMBEDDED["evaluate"], expected, "", changed("embeddings", "e.parquet", damage)) for what, (damage, expected) in DAMAGES.items()),
    *(Row(f"embeddings, bits flipped ({seed})", EMBEDDED["evaluate" if seed % 2 else "neighbours"], "either", "", changed("embeddings", "e.parquet", flipped(seed, 1 + seed))) for seed in range(10)),
]  # fmt: skip
AIS = "$fit --model.plugins.ais.corpus=class-names --model.plugins.ais.teacher=synthetic-clip --model.plugins.ais.bank_dir=$here/banks"


def bank(damage: Damage, pattern: str = "*.npy") -> Callable[[Path, World], None]:
    """Makes the row's own copy of the banks, which are damaged."""

    def make(here: Path, world: World) -> None:
        shutil.copytree(world.root / "banks", here / "banks")
        files = [path for path in (here / "banks").rglob(pattern) if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(damage(path.read_bytes()))

    return make


BANKS = [
    *(Row(f"banks, {what}", AIS, expected, "", bank(damage)) for what, (damage, expected) in DAMAGES.items() if what in ("empty", "cut at 50 %", "zeros", "cut at 99 %", "a block left out")),
    Row("banks with more at the end", AIS, "either", "", bank(followed_by(bytes(64)))),
    Row("banks of nan", AIS, "line", "damaged", bank(lambda c: c[:128] + np.full((len(c) - 128) // 2, np.nan, np.float16).tobytes())),
    *(Row(f"descriptions of banks, {what}", AIS, "line", "damaged|manifest|bank", bank(damage, "*.json")) for what, damage in (("empty", replaced(b"")), ("cut", cut(0.5)), ("a list", replaced(b"[]")), ("another schema", replaced(b'{"schema": 99}')))),
    *(Row(f"banks, bits flipped ({seed})", AIS, "either", "", bank(flipped(seed, 4))) for seed in range(4)),
    *(Row(f"descriptions of banks, bits flipped ({seed})", AIS, "either", "", bank(flipped(seed, 2), "*.json")) for seed in range(6)),
]  # fmt: skip
ROWS = {
    "Checkpoints, damaged": [*TORN, *FLIPPED],
    "Checkpoints, edited": FOREIGN,
    "Embeddings": EMBEDDINGS,
    "Banks": BANKS,
}
