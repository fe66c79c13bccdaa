"""Files that try to run code, to leave their folder or to exhaust the memory: refused in one line.

Archives that are downloaded: ``tests/data/sets/test_download.py``; images: ``tests/data/test_images.py``.
"""

import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from command_line import error_line, fit_arguments
from ppssl import PPSSL, UserError, load_encoder
from ppssl.checkpointing.files import read_plain
from ppssl.cli.main import main
from ppssl.text.bank_file import read_rows
from ppssl.text.corpus import TextCorpus
from ppssl.utils.recipes import read_yaml


class Attack:
    """A pickle of it makes a file where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def _pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps({"ppssl": Attack(mark), "state_dict": {}}))


def _torch_file(path: Path, mark: Path) -> None:
    torch.save({"ppssl": {"x": Attack(mark)}, "state_dict": {}}, path)


def _torch_legacy(path: Path, mark: Path) -> None:
    torch.save(Attack(mark), path, _use_new_zipfile_serialization=False)


CODE = [_pickle, _torch_file, _torch_legacy]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "code-was-run"


@pytest.mark.parametrize("make", CODE)
def test_attacks_work_where_they_are_let(
    make: Callable[[Path, Path], None], mark: Path, tmp_path: Path
) -> None:
    make(tmp_path / "evil.ckpt", mark)
    if make is _pickle:
        pickle.loads((tmp_path / "evil.ckpt").read_bytes())
    else:
        torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert mark.is_dir()


@pytest.mark.parametrize("make", CODE)
def test_no_file_of_weights_runs_code(
    make: Callable[[Path, Path], None], mark: Path, tmp_path: Path, image_folder: Path, capsys: Any
) -> None:
    evil = str(tmp_path / "evil.ckpt")
    make(Path(evil), mark)
    for read in (
        lambda: load_encoder(evil),
        lambda: PPSSL.load_from_checkpoint(evil),
        lambda: PPSSL("resnet18", pretrained=evil),
    ):
        with pytest.raises(UserError, match="cannot be read as"):
            read()
    for option in ("--ckpt_path", "--resume", "--model.pretrained"):
        assert main(fit_arguments(image_folder, tmp_path, f"{option}={evil}")) == 2
        assert "cannot be read as" in error_line(capsys)
    for arguments in (["evaluate", evil], ["embed", evil, "--out", str(tmp_path / "e.parquet")]):
        assert main(arguments) == 2
        assert "cannot be read as" in error_line(capsys)
    assert not mark.exists()


def test_foreign_classes_in_a_checkpoint_are_neither_imported_nor_called(
    mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    for class_path in ("evil_module.Model", "os.mkdir", "subprocess.Popen", "ppssl.utils.paths.os"):
        model = {"class_path": class_path, "init_args": {"path": str(mark)}}
        entry = {"schema_version": 1, "model": model, "data": model, "num_images": None}
        torch.save({"ppssl": entry, "state_dict": {}}, tmp_path / "evil.ckpt")
        with pytest.raises(UserError):
            PPSSL.load_from_checkpoint(tmp_path / "evil.ckpt")
    assert "evil_module" not in sys.modules
    assert not mark.exists()


def test_a_bank_runs_no_code_and_takes_no_more_than_its_file(mark: Path, tmp_path: Path) -> None:
    path = tmp_path / "bank.npy"
    np.save(path, np.array([Attack(mark)], dtype=object), allow_pickle=True)
    manifest = {"mean": [0.0], "dtype": "object", "shape": [1]}
    path.with_suffix(".json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"bank.npy is damaged"):
        read_rows(path, {})
    shape = (10**9, 1, 512)
    header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    manifest = {"mean": [0.0] * 512, "dtype": "float16", "shape": shape}
    path.with_suffix(".json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"bank.npy is damaged"):
        read_rows(path, {})
    assert not mark.exists()


RECIPES = {
    "code": "model: !!python/object/apply:os.mkdir ['{mark}']",
    "a name": "model: !!python/name:os.system",
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "itself": "model: &m {plugins: *m}",
    "deep": "model: " + "[" * 5000 + "]" * 5000,
    "digits": "model: " + "9" * 5000,
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_runs_no_code_and_exhausts_nothing(
    kind: str, mark: Path, tmp_path: Path, capsys: Any
) -> None:
    evil = tmp_path / "evil.yaml"
    evil.write_text(RECIPES[kind].replace("{mark}", str(mark)))
    with pytest.raises(UserError, match=r"evil.yaml"):
        read_yaml(evil)
    for arguments in (
        ["fit", "--config", str(evil)],
        ["ablate", str(evil), "--out", str(tmp_path / "o")],
    ):
        assert main(arguments) == 2
        assert "evil.yaml" in error_line(capsys)
    assert not mark.exists()


@pytest.mark.parametrize(
    "line",
    ["[" * 10**5 + "]" * 10**5, '{"text": ' * 10**5 + "1" + "}" * 10**5, '{"text": ' + "9" * 5000],
)
def test_a_corpus_that_is_nested_without_end(line: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"text": "a bird"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"corpus.jsonl, line 2, is not JSON"):
        TextCorpus.load(str(tmp_path / "corpus.jsonl"))


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    plain, bomb = tmp_path / "plain.ckpt", tmp_path / "bomb.ckpt"
    torch.save({"ppssl": {}, "state_dict": {"x": torch.zeros(8)}}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out:
        for name in source.namelist():
            with out.open(name, "w") as entry:
                for _ in range(512 if name.endswith("data/0") else 0):
                    entry.write(bytes(2**20))
                entry.write(b"" if name.endswith("data/0") else source.read(name))
    assert bomb.stat().st_size < 2**20
    code = (
        "import sys; from pathlib import Path; from ppssl.checkpointing.files import read_plain\n"
    )
    code += "import resource; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    code += "try: read_plain(Path(sys.argv[1]), 'a checkpoint')\nexcept Exception as e: print(e)\n"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    done = subprocess.run([sys.executable, "-c", code, bomb], capture_output=True, text=True)
    said, grown = done.stdout.strip().splitlines()
    assert "it is compressed, as torch never does" in said
    assert int(grown) < 100 * 1024  # KiB
    assert read_plain(plain, "a checkpoint")["state_dict"]["x"].shape == (8,)


def test_embeddings_that_would_exhaust_the_memory(tmp_path: Path, capsys: Any) -> None:
    dim, rows = 4096, 100_000
    description = {"encoder": "", "data": "", "image_size": 32, "eval_crop": 1.0, "dim": dim}
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(["a"]))
    table = pa.table({"split": column}, metadata={b"ppssl": json.dumps(description)})
    pq.write_table(table, tmp_path / "bomb.parquet")
    assert main(["evaluate", str(tmp_path / "bomb.parquet")]) == 2
    assert "its embeddings would take 1.6 GB" in error_line(capsys)


def test_the_sizes_of_safetensors_are_those_of_the_file(tmp_path: Path) -> None:
    entry = {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    header = json.dumps(entry).encode()
    files = {
        "header.safetensors": struct.pack("<Q", 2**62) + b"{}",
        "tensor.safetensors": struct.pack("<Q", len(header)) + header + bytes(64),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as weights: it is damaged"):
            PPSSL("test_resnet", pretrained=str(tmp_path / name))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
