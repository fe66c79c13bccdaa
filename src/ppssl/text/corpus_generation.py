"""Generation of a corpus by a language model: sentences about the visible parts of each class."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from rich.progress import Progress

from ppssl.text.corpus import plain_name
from ppssl.text.delimited import text_lines
from ppssl.text.language_model import LanguageModel
from ppssl.text.sentence_cleaning import clean_sentences
from ppssl.text.teachers.base import files_hash
from ppssl.utils.checks import check_list
from ppssl.utils.errors import ArgumentError, UserError
from ppssl.utils.paths import AnyPath, expand, expand_text, only_writer, writable_file, writing
from ppssl.utils.randomness import torch_seed
from ppssl.utils.results import provenance, write_json

__all__ = ["generate_corpus", "prompt"]

SCHEMA = 1
_ATTEMPTS = 4
"""Largest number of answers per class."""
_TOKENS = 40
"""Token budget per sentence."""


def generate_corpus(
    model: AnyPath,
    classes: Sequence[str],
    out: AnyPath,
    *,
    per_class: int = 8,
    kind: str = "object",
    seed: int = 0,
    temperature: float = 0.8,
    device: str = "auto",
) -> dict[str, list[str]]:
    """Generate a corpus with a local language model, as a ``.jsonl`` file for :class:`~ppssl.losses.ais.AIS`.

    A line is ``{"class": ..., "description": ...}``. The sentences of a class depend on the model, these arguments and
    the class name, not on other classes. The file grows by whole classes; a second run adds the missing ones, and does
    not load the model if none is missing.

    Args:
        model: A folder with a causal language model and its tokenizer (safetensors), or a hub id.
        classes: Class names.
        out: The ``.jsonl`` file. ``.manifest.json`` next to it states the settings.
        per_class: Sentences per class. The model answers up to four times; a warning states which classes have fewer.
        kind: Noun of the classes for the prompt, such as ``bird`` or ``car``.
        seed: Seed of the sampling.
        temperature: Temperature of the sampling, > 0.
        device: Device of the model; ``"auto"``: a GPU if there is one.

    Returns:
        The sentences of each class.

    Raises:
        UserError: The model cannot be read, the file was made with other settings or is being written by another
            process, or the model writes no usable sentence for any class.
    """
    check_list(classes=classes)
    if per_class < 1:
        raise ArgumentError(f"`per_class` must be >= 1, got {per_class}.")
    if not temperature > 0:
        raise ArgumentError(f"`temperature` must be > 0, got {temperature}.")
    path = _output(out)
    model = expand_text(model)
    settings = {"per_class": per_class, "kind": kind, "seed": seed, "temperature": temperature}
    with only_writer(path):
        done = _complete(path, model, classes, settings, device)
    described = {name: done[name] for name in classes if done.get(name)}
    if not described:
        raise UserError(
            f"`{model}` wrote no usable sentence for any class: use an instruction-tuned model."
        )
    return described


def _output(out: AnyPath) -> Path:
    """Path of the ``.jsonl`` file, which can be written and whose folder exists."""
    path = expand(out)
    if path.suffix != ".jsonl":
        raise UserError(f"`out` must be a .jsonl file, got {path}.")
    writable_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _complete(
    path: Path, model: str, classes: Sequence[str], settings: dict[str, Any], device: str
) -> dict[str, list[str]]:
    """The sentences in the file by class, after those of missing classes have been written."""
    done = _open(path, model, settings)
    missing = [name for name in dict.fromkeys(classes) if name not in done]
    if missing:
        done |= _write_all(LanguageModel(model, device), missing, path, settings)
    return done


def prompt(name: str, *, kind: str = "object", per_class: int = 8) -> str:
    """Prompt for a class: asks for its visible parts, without its name."""
    return (
        f'Describe the {kind} called "{plain_name(name)}" as it is seen in a photograph. Write {per_class} short '
        "sentences in English, one a line, without numbers. Each sentence tells the colour, pattern or shape of one "
        f"visible part by which this {kind} is told from similar ones. Do not write its name, and nothing that cannot "
        "be seen, such as sounds, habits, places or history."
    )


def _write_all(
    writer: LanguageModel, classes: Sequence[str], path: Path, settings: dict[str, Any]
) -> dict[str, list[str]]:
    """Write the sentences of each class to the file, one class after the other."""
    written: dict[str, list[str]] = {}
    with Progress(transient=True) as progress:
        for name in progress.track(classes, description="Describing classes"):
            written[name] = _sentences(writer, name, settings)
            _append(path, name, written[name])
    few = [name for name, sentences in written.items() if len(sentences) < settings["per_class"]]
    if few:
        rank_zero_warn(
            f"{len(few)} of {len(classes)} classes have fewer than {settings['per_class']} sentences, such as "
            f"{few[0]!r}: the model wrote too few usable ones."
        )
    return written


def _sentences(writer: LanguageModel, name: str, settings: dict[str, Any]) -> list[str]:
    """Sentences of one class, from up to four answers of the model."""
    per_class, text = settings["per_class"], ""
    question = prompt(name, kind=settings["kind"], per_class=per_class)
    for attempt in range(_ATTEMPTS):
        text += "\n" + writer.answer(
            question,
            max_new_tokens=_TOKENS * per_class,
            temperature=settings["temperature"],
            seed=torch_seed(settings["seed"], f"describe {name}", attempt),
        )
        sentences = clean_sentences(text, name)
        if len(sentences) >= per_class:
            break
    return sentences[:per_class]


def _open(path: Path, model: str, settings: dict[str, Any]) -> dict[str, list[str]]:
    """Read the sentences of an existing file by class; it must be made with the same model and settings.

    Without a file, its manifest is written.
    """
    manifest = path.with_suffix(".manifest.json")
    expected = {
        "schema": SCHEMA,
        "model": model,
        "model_hash": files_hash(model),
        **settings,
    }
    if not path.is_file():
        write_json(manifest, expected | {"made_with": provenance()["versions"]})
        return {}
    try:
        written = json.loads(manifest.read_text("utf-8"))
        rows = [json.loads(line) for line in text_lines(path.read_text("utf-8"))]
        done: dict[str, list[str]] = {}
        for row in rows:
            done.setdefault(row["class"], []).append(row["description"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} exists and cannot be continued ({error}): remove it, or choose another `out`."
        ) from error
    for name, value in expected.items():
        if name == "model":  # only its hash matters, not its path
            continue
        if name == "model_hash" and None in (value, written.get(name)):  # not on this machine
            continue
        if written.get(name) != value:
            raise UserError(
                f"{path} was made with another {name.replace('_', ' ')} ({written.get(name)}, now {value}): remove it, "
                "or choose another `out`."
            )
    return done


def _append(path: Path, name: str, sentences: Sequence[str]) -> None:
    """Add the lines of a class to the file atomically."""
    content = path.read_text("utf-8") if path.is_file() else ""
    rows = [{"class": name, "description": sentence} for sentence in sentences]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        part.write_text(content + lines, "utf-8")
        part.replace(path)
