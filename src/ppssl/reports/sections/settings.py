"""Settings, versions, and the commands that make the run and its numbers again."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ppssl.reports.measured import Measured
from ppssl.reports.section import Section
from ppssl.studies.study import flatten
from ppssl.utils.results import provenance, without_paths

__all__ = ["section"]


def section(runs: Sequence[Measured]) -> Section:
    """Make the section; of two runs also the settings that differ."""
    parts: dict[str, dict[str, Any] | str] = {}
    for measured in runs:
        settings = _settings(measured)
        parts[measured.run.name if len(runs) > 1 else ""] = {
            "yaml": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100),
            "commands": _commands(measured),
            "provenance": provenance() if measured.results is None else measured.results.provenance,
        }
    if len(runs) == 2:
        flat = [{name: str(value) for name, value in flatten(_settings(m)).items()} for m in runs]
        names = dict.fromkeys([*flat[0], *flat[1]])
        rows = [
            (n, *(f.get(n, "-") for f in flat)) for n in names if flat[0].get(n) != flat[1].get(n)
        ]
        difference = {"names": [m.run.name for m in runs], "rows": rows}
        parts = {"": {"difference": difference}, **parts}
    return Section("settings", "Settings and how to repeat it", parts)


def _settings(measured: Measured) -> dict[str, Any]:
    """Settings of Trainer, model and data, without the paths of this machine."""
    content = measured.run.content["ppssl"]
    trainer = measured.run.settings.get("trainer") or {}
    chosen = {name: value for name, value in trainer.items() if value is not None}
    settings = {
        "seed_everything": measured.run.settings.get("seed_everything"),
        "trainer": chosen,
        "model": content["model"],
        "data": content["data"],
    }
    return _plain(
        without_paths({name: value for name, value in settings.items() if value not in (None, {})})
    )


def _plain(value: Any) -> Any:
    """Lists in place of tuples, which YAML would mark."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _commands(measured: Measured) -> list[tuple[str, str]]:
    checkpoint = measured.run.checkpoint.name
    commands = [
        ("The numbers of this page", f"ppssl evaluate {checkpoint} --json results.json"),
        ("This page", f"ppssl report {checkpoint} --out report.html"),
    ]
    if measured.run.settings:
        return [
            ("The run, by the config.yaml beside its logs", "ppssl fit --config config.yaml"),
            *commands,
        ]
    return commands
