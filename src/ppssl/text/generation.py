"""A corpus written by a language model: sentences about visible parts, class by class, without the classes' names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_warn
from rich.progress import Progress

from ppssl.text.language_model import LanguageModel
from ppssl.text.sentences import clean_sentences
from ppssl.text.teachers.base import hash_folder, local_folder
from ppssl.utils.errors import UserError
from ppssl.utils.randomness import torch_seed
from ppssl.utils.results import provenance, write_json

__all__ = ["generate_corpus", "prompt"]

SCHEMA = 1
_ATTEMPTS = 4
_TOKENS = 40
"""How often the model is asked for a class, and how many tokens a sentence may take."""


def generate_corpus(
    model: str,
    classes: Sequence[str],
    out: str | Path,
    *,
    per_class: int = 8,
    kind: str = "object",
    seed: int = 0,
    temperature: float = 0.8,
    device: str = "auto",
) -> dict[str, list[str]]:
    """Have a local language model describe each class, into a ``.jsonl`` that :class:`~ppssl.losses.ais.AIS` reads.

    A line is ``{"class": ..., "description": ...}``. What a class gets depends on the model, these arguments and its
    own name, and not on other classes. The file grows by whole classes; a second run adds those that are missing, and
    where none is the model is not even loaded.

    Args:
        model: A folder with a causal language model and its tokenizer (safetensors), or a hub id.
        classes: Their names.
        out: The file. Beside it ``.manifest.json`` says how it was made.
        per_class: Sentences a class. The model is asked up to four times; what it then lacks is told in a warning.
        kind: What the classes are kinds of, for the prompt: ``bird``, ``car``.
        seed: Of the sampling.
        temperature: Of the sampling, > 0.
        device: Where the model runs; ``"auto"``: a GPU where there is one.

    Returns:
        The sentences of each class.

    Raises:
        UserError: The model cannot be read, the file was made otherwise or is being written by another process, or
            the model writes no usable sentence for any class.
    """
    if per_class < 1:
        raise ValueError(f"`per_class` must be >= 1, got {per_class}.")
    if not temperature > 0:
        raise ValueError(f"`temperature` must be > 0, got {temperature}.")
    path = Path(out).expanduser()
    if path.suffix != ".jsonl":
        raise UserError(
            f"`out` must end with .jsonl, for sentences with their classes, got {path}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"per_class": per_class, "kind": kind, "seed": seed, "temperature": temperature}
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            done = _open(path, model, settings)
            missing = [name for name in dict.fromkeys(classes) if name not in done]
            if missing:
                writer = LanguageModel(model, device)
                done |= _write_all(writer, missing, path, settings)
    except Timeout:
        raise UserError(f"Another process writes {path}: wait for it.") from None
    found = {name: done[name] for name in classes if done.get(name)}
    if not found:
        raise UserError(
            f"`{model}` wrote no usable sentence for any class: take a model that is tuned to follow instructions."
        )
    return found


def prompt(name: str, *, kind: str = "object", per_class: int = 8) -> str:
    """What the model is asked about a class: visible parts only, and not its name."""
    plain = re.sub(r"^\d+\.", "", name).replace("_", " ")  # 001.Black_footed_Albatross
    return (
        f'Describe the {kind} called "{plain}" as it is seen in a photograph. Write {per_class} short sentences in '
        "English, one a line, without numbers. Each sentence tells the colour, pattern or shape of one "
        f"visible part by which this {kind} is told from similar ones. Do not write its name, and nothing that cannot "
        "be seen, such as sounds, habits, places or history."
    )


def _write_all(
    writer: LanguageModel, classes: Sequence[str], path: Path, settings: dict[str, Any]
) -> dict[str, list[str]]:
    """Sentences of each class, each class in the file before the next one is begun."""
    written: dict[str, list[str]] = {}
    with Progress(transient=True) as progress:
        for name in progress.track(classes, description="Describing classes"):
            written[name] = _sentences(writer, name, settings)
            _append(path, name, written[name])
    few = [name for name, sentences in written.items() if len(sentences) < settings["per_class"]]
    if few:
        rank_zero_warn(
            f"{len(few)} of {len(classes)} classes have fewer than {settings['per_class']} sentences, such as "
            f"{few[0]!r}: the model wrote no more that are usable."
        )
    return written


def _sentences(writer: LanguageModel, name: str, settings: dict[str, Any]) -> list[str]:
    wanted, text = settings["per_class"], ""
    question = prompt(name, kind=settings["kind"], per_class=wanted)
    for attempt in range(_ATTEMPTS):
        text += "\n" + writer.answer(
            question,
            max_new_tokens=_TOKENS * wanted,
            temperature=settings["temperature"],
            seed=torch_seed(settings["seed"], f"describe {name}", attempt),
        )
        sentences = clean_sentences(text, name)
        if len(sentences) >= wanted:
            break
    return sentences[:wanted]


def _open(path: Path, model: str, settings: dict[str, Any]) -> dict[str, list[str]]:
    """The sentences that are in the file, by class, if it was made with the same model and settings."""
    manifest = path.with_suffix(".manifest.json")
    folder = local_folder(model)
    own = {
        "schema": SCHEMA,
        "model": model,
        "model_hash": None if folder is None else hash_folder(folder),
        **settings,
    }
    if not path.is_file():
        write_json(manifest, own | {"made_with": provenance()["versions"]})
        return {}
    try:
        made = json.loads(manifest.read_text("utf-8"))
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        done: dict[str, list[str]] = {}
        for row in rows:
            done.setdefault(row["class"], []).append(row["description"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is there and cannot be continued ({error}): remove it, or choose another `out`."
        ) from error
    for name, value in own.items():
        if name == "model" or (name == "model_hash" and None in (value, made.get(name))):
            continue  # where it lies does not matter, and one that is not on this machine has no hash
        if made.get(name) != value:
            raise UserError(
                f"{path} was made with another {name.replace('_', ' ')} ({made.get(name)}, now {value}): remove it, or "
                "choose another `out`."
            )
    return done


def _append(path: Path, name: str, sentences: Sequence[str]) -> None:
    """Add a class to the file: it has either all of its lines or none, whenever it is interrupted."""
    before = path.read_text("utf-8") if path.is_file() else ""
    rows = [{"class": name, "description": sentence} for sentence in sentences]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(before + lines, "utf-8")
    part.replace(path)
