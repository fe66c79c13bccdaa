"""Files of embeddings that are damaged, or that another program has changed: one line each."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ppssl import UserError
from ppssl.inference.embedding_file import (
    Description,
    list_column,
    read_description,
    read_embeddings,
    with_description,
)

ROWS, DIM = 6, 3
FEATURES = torch.arange(ROWS * DIM, dtype=torch.float32).view(ROWS, DIM)


def _table(**changed: Any) -> pa.Table:
    columns = {
        "split": ["train"] * 4 + ["test"] * 2,
        "path": [f"{i}.png" for i in range(ROWS)],
        "class": ["a", "b", None, "a", "a", "b"],
        "label": [0, 1, -1, 0, 0, 1],
        "index": list(range(ROWS)),
        "embedding": list_column(FEATURES),
    }
    table = pa.table({name: v for name, v in (columns | changed).items() if v is not None})
    return with_description(table, Description("e", "d", 32, 0.875, DIM))


def _read(path: Path, rows: int = 4) -> torch.Tensor:
    return torch.cat([part.features for part, _ in read_embeddings(path, rows)])


def _lists(rows: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(rows, kind or pa.list_(pa.float32()))


@pytest.mark.parametrize("same", [
    {},
    {"label": pa.array([0, 1, -1, 0, 0, 1], pa.int32())},
    {"split": pa.array(["train"] * 4 + ["test"] * 2).dictionary_encode()},
    {"embedding": _lists(FEATURES.tolist(), pa.list_(pa.float64()))},
    {"more": ["x"] * ROWS},
], ids=lambda same: next(iter(same), "as written"))  # fmt: skip
def test_the_same_values_in_other_types_are_read(same: dict[str, Any], tmp_path: Path) -> None:
    pq.write_table(_table(**same), tmp_path / "e.parquet")
    assert torch.equal(_read(tmp_path / "e.parquet"), FEATURES)


@pytest.mark.parametrize(("changed", "says"), [
    ({"embedding": None}, "no column `embedding`"),
    ({"label": None}, "no column `label`"),
    ({"path": None}, "no column `path`"),
    ({"label": ["x"] * ROWS}, "x.*int64"),
    ({"label": [0.5] * ROWS}, "0.5"),
    ({"label": [0, 1, None, 0, 0, 1]}, "label.*null"),
    ({"split": [*["train"] * 5, None]}, "split.*null"),
    ({"split": [*["train"] * 5, "dev"]}, "`split` is `dev`"),
    ({"label": [0, 1, -1, 0, 0, -7]}, "`label` is -7"),
    ({"index": [0, 1, 2, 3, 4, 4]}, "ascending"),
    ({"index": [0, 1, 2, 3, 3, 4]}, "ascending"),  # across two batches
    ({"index": [-1, 1, 2, 3, 4, 5]}, "negative"),
    ({"embedding": ["x"] * ROWS}, "embeddings .*e.parquet"),
    ({"embedding": [1.0] * ROWS}, "embeddings .*e.parquet"),
    ({"embedding": _lists([[1.0] * (3 + i % 2) for i in range(ROWS)])}, "embeddings .*e.parquet"),
    ({"embedding": _lists([[1.0] * 4] * ROWS)}, "embeddings .*e.parquet"),
    ({"embedding": _lists([*FEATURES.tolist()[:-1], None])}, "embedding.*null"),
    ({"embedding": _lists([*FEATURES.tolist()[:-1], [1.0, None, 2.0]])}, "not finite"),
    ({"embedding": list_column(FEATURES / 0)}, "not finite"),
])  # fmt: skip
def test_changed_columns_are_one_line(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    file = tmp_path / "e.parquet"
    pq.write_table(_table(**changed), file)
    with pytest.raises(UserError, match=says) as raised:
        _read(file)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("changed", [
    {"dim": "3"}, {"dim": 0}, {"image_size": -1}, {"eval_crop": "x"}, {"feature": "x"}, {"feature": []},
    {"squash": "no"},
])  # fmt: skip
def test_a_changed_description_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    table = _table()
    good = json.loads(table.schema.metadata[b"ppssl"])
    pq.write_table(
        table.replace_schema_metadata({"ppssl": json.dumps(good | changed)}), tmp_path / "e.parquet"
    )
    with pytest.raises(UserError, match="is not a file of embeddings"):
        read_description(tmp_path / "e.parquet")


def test_files_of_earlier_versions_do_not_say_that_images_were_squashed(tmp_path: Path) -> None:
    table = _table()
    told = json.loads(table.schema.metadata[b"ppssl"])
    assert told.pop("squash") is False
    earlier = table.replace_schema_metadata({"ppssl": json.dumps(told)})
    pq.write_table(earlier, tmp_path / "e.parquet")
    assert read_description(tmp_path / "e.parquet").view == (32, 0.875, False, None)


def test_no_rows_are_said(tmp_path: Path) -> None:
    pq.write_table(_table().slice(0, 0), tmp_path / "e.parquet")
    with pytest.raises(UserError, match="has no embeddings"):
        read_description(tmp_path / "e.parquet")


@pytest.mark.parametrize("damage", ["a value", "a block", "the end"])
def test_damaged_pages_are_seen(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "e.parquet"
    pq.write_table(_table(), file, write_page_checksum=True, compression="none")
    content = bytearray(file.read_bytes())
    at = content.index(struct.pack("<2f", 16.0, 17.0))
    changes: dict[str, Callable[[], Any]] = {
        "a value": lambda: content.__setitem__(at + 2, content[at + 2] ^ 1),
        "a block": lambda: content.__setitem__(slice(at - 40, at), bytes(40)),
        "the end": lambda: content.__delitem__(slice(at, at + 100)),
    }
    changes[damage]()
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"e\.parquet"):
        _read(file)
