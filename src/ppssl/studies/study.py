"""Studies: variants of a recipe and their seeds, read from YAML and checked before the first run."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppssl.utils.errors import UserError, did_you_mean
from ppssl.utils.paths import AnyPath
from ppssl.utils.recipes import read_yaml

__all__ = [
    "FROM_COMMAND_LINE",
    "Study",
    "command_line",
    "flatten",
    "folder_name",
    "load_study",
    "result_path",
]

FROM_COMMAND_LINE = "given"
"""Value of an override in a study that must be given on the command line, such as the path of a checkpoint."""


@dataclass(frozen=True)
class Study:
    """Ablation study: variants of a recipe, and their seeds. Names of options are in full and without ``init_args``.

    Attributes:
        recipe: The recipe: a file, or ``ppssl:<folder>/<recipe>``.
        variants: By variant name, overrides of the recipe by dotted name; ``{}`` is the recipe itself. An override with
            the value ``given`` takes its value from the command line, and applies to this variant only.
        seeds: Seeds of each variant.
        overrides: Overrides of all variants.
        grid: Lists of values by dotted name: each variant is run with every combination of them.
        baseline: The variant that the others are compared with; default: the first.
    """

    recipe: str
    variants: dict[str, dict[str, Any]] = field(default_factory=lambda: {"base": {}})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    overrides: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    baseline: str | None = None

    def runs(self) -> list[dict[str, Any]]:
        """List all runs of the study.

        Returns:
            For each run ``variant``, ``seed``, ``recipe``, ``overrides`` and ``key``, a hash of all its settings.
        """
        recipe = _override(_recipe_settings("ppssl:base"), _recipe_settings(self.recipe))
        grid_points = [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]
        runs = []
        for seed, (name, variant), point in itertools.product(
            self.seeds, self.variants.items(), grid_points
        ):
            label = ",".join([name, *(f"{k.rsplit('.', 1)[-1]}={v}" for k, v in point.items())])
            overrides = self.overrides | variant | point
            settings = json.dumps([_override(recipe, overrides), seed], sort_keys=True)
            run = {
                "variant": label,
                "seed": seed,
                "recipe": self.recipe,
                "overrides": overrides,
                "key": hashlib.sha256(settings.encode()).hexdigest()[:16],
            }
            runs.append(run)
        return runs


def _recipe_settings(name: str) -> dict[str, Any]:
    """Settings of a recipe by dotted name, without the output folder, which does not change the results."""
    settings = flatten(read_yaml(name))
    settings.pop("trainer.default_root_dir", None)
    return settings


def flatten(content: Any, name: str = "") -> dict[str, Any]:
    """Settings by dotted name, without ``init_args``, as on the command line."""
    if not isinstance(content, Mapping) or not content:
        return {name: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    return flat


def _override(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with overrides; an override replaces the setting of its name and all settings below that name."""
    flat = dict(settings)
    for name, value in overrides.items():
        below = f"{name}."
        flat = {n: v for n, v in flat.items() if n != name and not n.startswith(below)}
        flat |= flatten(value, name)
    return flat


def load_study(path: AnyPath) -> Study:
    """Read a study from YAML; its keys are the attributes of :class:`Study`.

    Raises:
        UserError: The file does not exist, or is not a study.
    """
    content = read_yaml(path)
    valid_keys = sorted(Study.__dataclass_fields__)
    problem = ""
    if not isinstance(content, Mapping):
        problem = "not a mapping"
    elif unknown := sorted(set(content) - set(valid_keys)):
        problem = f"unknown key {', '.join(unknown)}"
    elif "recipe" not in content:
        problem = "no `recipe`"
    if problem:
        raise UserError(f"{path} is not a study ({problem}): its keys are {', '.join(valid_keys)}.")
    _check_types(content, path)
    study = Study(**content)
    _check_runs(study, path)
    return study


def _check_runs(study: Study, path: Any) -> None:
    """Check, before the first run, what would be noticed only after it."""
    names = list(study.variants)
    problem = ""
    if not (study.seeds and names and all(study.grid.values())):
        problem = "it has no runs: `seeds`, `variants` and each list of `grid` need an entry"
    elif bad := [s for s in study.seeds if type(s) is not int or not 0 <= s < 2**32]:
        problem = f"`seeds` must be whole numbers from 0 to {2**32 - 1}, got {bad[0]!r}"
    elif len(set(study.seeds)) < len(study.seeds):
        problem = f"`seeds` has a number twice: {study.seeds}"
    elif others := [name for name in names if type(name) is not str]:
        problem = f"names of `variants` must be text, got {others[0]!r}: write it in quotes"
    if problem:
        raise UserError(f"{path}: {problem}.")
    runs = study.runs()
    labels = list(dict.fromkeys(run["variant"] for run in runs))
    if study.baseline is not None and study.baseline not in labels:
        hint = did_you_mean(study.baseline, labels, f": there are {'; '.join(labels)}")
        raise UserError(f"{path}: `baseline` {study.baseline!r} is not one of the variants{hint}.")
    if unusable := [label for label in labels if not label.strip(". ") or len(label) > 200]:
        raise UserError(
            f"{path}: a variant's name, with its values of `grid`, is that of a folder, and {unusable[0][:50]!r} "
            "cannot be one: give it 1 to 200 characters."
        )
    places: dict[Path, str] = {}
    for run in runs:
        other = places.setdefault(result_path(run, Path()), run["variant"])
        if other != run["variant"]:
            raise UserError(
                f"{path}: the variants `{other}` and `{run['variant']}` would write to the same folder: rename one."
            )


_RULES: dict[type, str] = {list: "a list", dict: "a mapping ({} for none)", str: "text"}


def _check_types(content: Mapping[str, Any], path: Any) -> None:
    """Check that lists are lists and mappings are mappings, in the study and one level below."""
    expected: dict[str, type] = {"variants": dict, "seeds": list, "overrides": dict, "grid": dict}
    expected |= {"recipe": str} | ({} if content.get("baseline") is None else {"baseline": str})
    checks = [(name, content[name], kind) for name, kind in expected.items() if name in content]
    expected_entries: dict[str, type] = {"variants": dict, "grid": list}
    for name, kind in expected_entries.items():
        entries = content.get(name)
        if isinstance(entries, dict):
            checks += [(f"{name}.{key}", value, kind) for key, value in entries.items()]
    for name, value, kind in checks:
        if not isinstance(value, kind):
            raise UserError(f"{path}: `{name}` must be {_RULES[kind]}, got {value!r}.")
    options = [content.get("overrides", {}), content.get("grid", {})]
    options += content.get("variants", {}).values()
    if odd := [name for names in options for name in names if not isinstance(name, str)]:
        raise UserError(f"{path}: names of options must be text, got {odd[0]!r}.")
    try:
        json.dumps(content)
    except TypeError as error:  # a date
        raise UserError(
            f"{path}: a value is no number, text, list or mapping ({error}): write it in quotes."
        ) from error


def result_path(run: Mapping[str, Any], out: Path) -> Path:
    """File of a run's results."""
    return out / folder_name(run) / f"seed{run['seed']}.json"


def folder_name(run: Mapping[str, Any]) -> str:
    """Name of a run's variant as a folder."""
    return "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in run["variant"])


def command_line(run: Mapping[str, Any], local: Sequence[str] = ()) -> list[str]:
    """Overrides of a run as on a command line, its seed among them, and then those of this machine."""
    overrides = [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in run["overrides"].items()
        if value != FROM_COMMAND_LINE
    ]
    return [*overrides, f"--seed_everything={run['seed']}", *local]
