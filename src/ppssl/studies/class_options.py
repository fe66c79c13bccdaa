"""A class or backbone that a command line or a second recipe chooses does not get the former one's arguments."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import yaml

from ppssl.utils.recipes import read_yaml

__all__ = ["with_own_defaults"]

_OPTION = r"--model\.(init_args\.)?contrastive"
_CHOICE = re.compile(rf"{_OPTION}(\.class_path)?(=|$)")
_ANY = re.compile(rf"{_OPTION}[.=]|{_OPTION}$")

_KWARGS = "--model.backbone_kwargs=null"

_RESETS = (
    (re.compile(r"model\.contrastive|data\.augmentation"), "null"),
    (re.compile(r"model\.plugins\.[^.]+"), "ppssl.LossPlugin"),
    (re.compile(r"model\.plugins\.[^.]+(\.teacher)+"), "none"),
)
"""Options of objects, without ``init_args``, and a value of each that has no arguments: null, a base class, a name."""


def with_own_defaults(args: Sequence[str]) -> list[str]:
    """Reset an object in a command line before another class is chosen for it, by an option or a second ``--config``.

    Otherwise jsonargparse keeps the values of all arguments that the new class has too, such as a temperature or a
    momentum that was right for another one. An objective (``--model.contrastive``) that an option chooses has its own
    defaults also if it is of the recipe's class. Another backbone does not get the ``backbone_kwargs`` of the former.
    """
    args = list(args)
    if any(map(_CHOICE.match, args)):
        first = next(i for i, arg in enumerate(args) if _ANY.match(arg))
        args.insert(first, "--model.contrastive=null")
    classes: dict[str, str | None] = {}
    extended: list[str] = []
    for option in _options(args):
        chosen = _classes(*_name_and_value(option))
        reset: list[str] = []
        for place, cls in sorted(chosen.items()):
            former = classes.get(place)
            if cls and former and not _same(former, cls) and not _is_below(place, reset):
                reset.append(place)
        for place in reset:
            extended.append(f"--{place}={_reset_value(place)}")
        classes = {p: c for p, c in classes.items() if not _is_below(p, reset)} | chosen
        extended += option
    return _without_former_arguments(extended)


def _without_former_arguments(args: Sequence[str]) -> list[str]:
    """Reset ``backbone_kwargs`` after what chose a backbone, if a later option chooses another one."""
    options = list(_options(args))
    chosen = [(i, value) for i, option in enumerate(options) if (value := _backbone(option))]
    former = [i for (i, old), (_, new) in pairwise(chosen) if old != new]
    reset = [_KWARGS]
    return [arg for i, o in enumerate(options) for arg in (*o, *(reset if i in former else []))]


def _backbone(option: Sequence[str]) -> Any:
    """The encoder that an option or a recipe chooses: a timm name, or the path of a class."""
    name, value = _name_and_value(option)
    for key in () if name else ("model", "init_args", "backbone"):
        inner = value.get(key) if isinstance(value, Mapping) else None
        value = value if key == "init_args" and inner is None else inner
    if name in ("", "model.backbone", "model.backbone.class_path"):
        return value.get("class_path") if isinstance(value, Mapping) else value
    return None


def _options(args: Sequence[str]) -> Iterator[list[str]]:
    """The arguments, an option together with its value."""
    option: list[str] = []
    for arg in args:
        if option and (arg.startswith("-") or len(option) == 2 or "=" in option[0]):
            yield option
            option = []
        option.append(arg)
    if option:
        yield option


def _name_and_value(option: Sequence[str]) -> tuple[str, Any]:
    """Dotted name of an option without ``init_args``, and its value; of a recipe an empty name and its content."""
    name, _, value = " ".join(option).partition("=" if "=" in option[0] else " ")
    if name in ("--config", "-c") and value:
        return "", read_yaml(value)
    content = None if value in ("null", "None") else value
    if value.lstrip().startswith("{"):
        with suppress(yaml.YAMLError, ValueError):  # the parser tells of it
            content = yaml.safe_load(value)
    return name.removeprefix("--").replace(".init_args", ""), content


def _classes(name: str, value: Any) -> dict[str, str | None]:
    """Class of each object of ``_RESETS`` that a setting names; ``None`` for one that is set to something else."""
    if name.endswith(".class_path"):
        name, value = name.removesuffix(".class_path"), {"class_path": value}
    found: dict[str, str | None] = {}
    if _reset_value(name):
        cls = value.get("class_path", "") if isinstance(value, Mapping) else value
        is_class = isinstance(cls, str) and not (name.endswith(".teacher") and cls is value)
        if cls != "":
            found[name] = cls if is_class else None
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key != "class_path":
                below = name if key == "init_args" else f"{name}.{key}".lstrip(".")
                found |= _classes(below, item)
    return found


def _reset_value(place: str) -> str | None:
    """The value that has no arguments; ``None`` for other options."""
    return next((value for pattern, value in _RESETS if pattern.fullmatch(place)), None)


def _is_below(place: str, others: Sequence[str]) -> bool:
    return any(f"{place}.".startswith(f"{other}.") for other in others)


def _same(first: str, second: str) -> bool:
    """Whether two class paths name one class: ``MoCo``, ``ppssl.MoCo`` and ``ppssl.losses.contrastive.MoCo`` do."""
    package, other = first.partition(".")[0], second.partition(".")[0]
    is_same_name = first.rpartition(".")[2] == second.rpartition(".")[2]
    return is_same_name and (package == other or "." not in first or "." not in second)
