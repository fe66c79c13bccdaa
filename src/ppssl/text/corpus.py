"""Text corpus: descriptions of distinctive attributes, not paired with images (:ref:`D8 <d8>`, :ref:`F3 <f3>`).

A description is one entry of the corpus; it may have several phrasings, whose embeddings are averaged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from ppssl.text.delimited import read_delimited, text_lines
from ppssl.text.metadata import METADATA_CORPORA, metadata_descriptions
from ppssl.utils.checks import check_list
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, expand_text

__all__ = ["MAX_DESCRIPTIONS", "TEMPLATES", "TextCorpus", "packaged_corpora", "plain_name"]

MAX_DESCRIPTIONS = 50_000
"""Largest number of descriptions of a corpus; the softmax runs over all of them."""

TEMPLATES = ("a photo of a {}.", "a close-up photo of a {}.", "a photo of the {}, a fine detail.")
"""Phrasings of a class name."""

_COLUMNS = ("description", "text", "caption", "sentence")


class TextCorpus:
    """Corpus of distinct descriptions, each with one or more phrasings.

    Args:
        descriptions: One text per description, or its phrasings. White space is normalised, empty texts are removed,
            and of equal descriptions the first is kept.
        source: Name of the corpus, for messages.

    Attributes:
        descriptions: The phrasings of each description, ``M`` tuples.
        duplicates: Number of removed duplicates.

    Raises:
        UserError: Fewer than 2 or more than 50,000 descriptions remain.
    """

    def __init__(
        self, descriptions: Iterable[str | Sequence[str]], source: str = "the corpus"
    ) -> None:
        check_list(descriptions=descriptions)
        cleaned = [phrasings for item in descriptions if (phrasings := _phrasings(item))]
        kept = list(dict.fromkeys(cleaned))
        if not 2 <= len(kept) <= MAX_DESCRIPTIONS:
            remedy = "add descriptions" if len(kept) < 2 else "use a part of it"
            raise UserError(
                f"A corpus must have 2 to {MAX_DESCRIPTIONS:,} different descriptions, {source} has {len(kept):,}: "
                f"{remedy}."
            )
        self.descriptions: tuple[tuple[str, ...], ...] = tuple(kept)
        self.duplicates = len(cleaned) - len(kept)

    def __len__(self) -> int:
        return len(self.descriptions)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self.descriptions)

    @property
    def titles(self) -> list[str]:
        """First phrasing of each description, for display."""
        return [phrasings[0] for phrasings in self.descriptions]

    def fingerprint(self) -> str:
        """Hash of all texts in order, 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.descriptions).encode()).hexdigest()[:16]

    @classmethod
    def load(
        cls,
        name: AnyPath,
        column: str | None = None,
        classes: Sequence[str] = (),
        root: AnyPath | None = None,
    ) -> TextCorpus:
        """Load a corpus by name or path.

        Args:
            name: A ``.txt`` (one description per line), ``.csv``, ``.tsv`` or ``.jsonl`` file (UTF-8; cells may be
                separated by a comma, semicolon, tab or bar, which the header line tells), a packaged corpus
                (:func:`packaged_corpora`), ``"class-names"`` (the data set's class names in :data:`TEMPLATES`), or a
                corpus made from a data set's metadata (:mod:`ppssl.text.metadata`).
            column: Column of a table or ``.jsonl`` file; ``None``: ``description``, ``text``, ``caption``,
                ``sentence``, or the only column.
            classes: The data set's class names, for ``"class-names"`` and ``"cars-names"``.
            root: The data set's folder, for ``"cub-attributes"`` and ``"aircraft-hierarchy"``.

        Raises:
            UserError: The corpus or the column does not exist, the file is not UTF-8, or the number of descriptions is
                not allowed.
        """
        name = expand_text(name)
        named = ("class-names", *METADATA_CORPORA, *packaged_corpora())
        if column is not None and name in named:
            raise UserError(f"The corpus `{name}` has no columns: leave out `corpus_column`.")
        if name == "class-names":
            return cls.from_classes(classes)
        if name in METADATA_CORPORA:
            descriptions = metadata_descriptions(name, root=root, classes=classes)
            return cls(descriptions, f"the corpus `{name}`")
        if name in packaged_corpora():
            packaged = resources.files("ppssl.text").joinpath(f"corpora/{name}.txt")
            return cls(packaged.read_text("utf-8").splitlines(), f"the packaged corpus `{name}`")
        path = Path(name)
        if not path.is_file():
            raise UserError(f"No corpus `{name}`: it must be a file or one of {', '.join(named)}.")
        readers = {
            ".txt": _read_txt,
            ".csv": _read_table,
            ".tsv": _read_table,
            ".jsonl": _read_jsonl,
        }
        if path.suffix.lower() not in readers:
            raise UserError(f"A corpus must be a .txt, .csv, .tsv or .jsonl file, got {path}.")
        return cls(readers[path.suffix.lower()](path, column), str(path))

    @classmethod
    def from_classes(cls, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> TextCorpus:
        """Make one description per class from its :func:`plain_name`, in each template; hyphens become spaces.

        Args:
            names: Class names.
            templates: Phrasings with ``{}`` for the class name.

        Raises:
            UserError: There are fewer than two class names.
            ValueError: A template has no ``{}``.
        """
        check_list(names=names, templates=templates)
        for template in templates:
            if "{}" not in template:
                raise ValueError(
                    f"A template must contain {{}} for the class name, got {template!r}."
                )
        plain = [plain_name(name).replace("-", " ") for name in names]
        return cls(
            [[t.replace("{}", name) for t in templates] for name in plain], "the class names"
        )


def packaged_corpora() -> list[str]:
    """Names of the corpora in the package."""
    folder = resources.files("ppssl.text").joinpath("corpora")
    return sorted(
        item.name[: -len(".txt")] for item in folder.iterdir() if item.name.endswith(".txt")
    )


def plain_name(name: str) -> str:
    """Name of a class in plain words: ``001.Black_footed_Albatross`` of CUB is ``Black footed Albatross``."""
    return re.sub(r"^\d+\.\s*(?=\D)", "", name).replace("_", " ")


def _phrasings(item: str | Sequence[str]) -> tuple[str, ...]:
    """Distinct, non-empty phrasings of a description, with normalised white space."""
    texts = [item] if isinstance(item, str) else item
    normalised = [" ".join(text.split()) for text in texts]
    return tuple(dict.fromkeys(text for text in normalised if text))


def _decode(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}, is not UTF-8: save the file as UTF-8.") from error


def _read_txt(path: Path, column: str | None) -> list[str]:
    if column is not None:
        raise UserError(f"{path} has no columns: leave out `corpus_column`.")
    return text_lines(_decode(path))


def _read_table(path: Path, column: str | None) -> list[str]:
    columns, rows = read_delimited(path, _decode(path), [column] if column else _COLUMNS)
    chosen = _choose(path, columns, column)
    return _texts(path, ((line, row.get(chosen)) for line, row in rows))


def _read_jsonl(path: Path, column: str | None) -> list[str]:
    rows: list[tuple[int, dict[str, object]]] = []
    for number, line in enumerate(text_lines(_decode(path)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # too many digits, too deep
            reason = getattr(error, "msg", str(error).split(";")[0])
            raise UserError(f"{path}, line {number}, is not JSON: {reason}.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}, is not a JSON object: {line.strip()[:40]!r}.")
        rows.append((number, row))
    if not rows:
        return []
    chosen = _choose(path, list(rows[0][1]), column)
    return _texts(path, ((number, row.get(chosen)) for number, row in rows))


def _choose(path: Path, columns: list[str], column: str | None) -> str:
    """Choose the column of the descriptions: the given one, else the first of the usual names, else the only one."""
    if column:
        candidates = [column]
    else:
        candidates = [name for name in _COLUMNS if name in columns]
        if not candidates and len(columns) == 1:
            candidates = columns
    if not candidates or candidates[0] not in columns:
        problem = "no description column" if column is None else f"no column `{column}`"
        raise UserError(
            f"{path} has {problem}: set `corpus_column` to one of {', '.join(columns) or 'none'}."
        )
    return candidates[0]


def _texts(path: Path, cells: Iterable[tuple[int, object]]) -> list[str]:
    """Descriptions of a column; a missing cell counts as empty, and other types are an error."""
    texts: list[str] = []
    empty = 0
    for line, cell in cells:
        if cell is not None and not isinstance(cell, str):
            raise UserError(f"{path}, line {line}: a description must be text, got {cell!r}.")
        empty += not (cell or "").strip()
        texts.append(cell or "")
    if empty:
        rank_zero_warn(f"{path}: {empty} of {len(texts)} descriptions are empty and skipped.")
    return texts
