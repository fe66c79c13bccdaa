"""Messages of jsonargparse as one line: the option, what it takes, what it got, and the most similar option."""

import difflib
import importlib
import inspect
import re

from lightning.pytorch import Trainer

from ppssl.checkpointing.run_checkpoint import RunCheckpoint
from ppssl.utils.config import Configurable, argument_names
from ppssl.utils.errors import did_you_mean

__all__ = ["one_line", "parser_message"]

_SECTION_CLASSES = {"trainer": Trainer, "checkpoint": RunCheckpoint}
_TOP_LEVEL_OPTIONS = (
    "config",
    "seed_everything",
    "trainer",
    "model",
    "data",
    "checkpoint",
    "checkpoint_io",
    "resume",
    "ckpt_path",
    "out",
    "seed",
    "json",
)


_UNINFORMATIVE = re.compile(
    r"^(Expected|Problem with|Not (of type|a valid)|Subclass types|a class path|a dict )|object has no|is not iterable"
)
"""Reasons of jsonargparse that say less than the types that it lists."""

_TYPES = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "text",
    "NoneType": "null",
    "dict": "a mapping",
    "list": "a list",
    "tuple": "a list",
    "Iterable": "a list",
    "Callable": "a function",
    "timedelta": "a time such as 00:05:00",
}


def parser_message(text: str) -> str:
    """Message of a jsonargparse error in one line."""
    text = re.sub(
        r"\n *- Type \S*Callable\[[^\n]+", "", text
    )  # why an object is no function, either
    if option := re.findall(r"Option '([^']+)' is not accepted", text):
        class_path = re.findall(r"class_path '([^']+)'", text)[-1]
        if class_path.endswith(".FineGrainedDataModule"):  # its options alone, without a data set
            return f"`--data.{option[-1]}` overrides a recipe: give `--data RECIPE` too."
        hint = did_you_mean(option[-1], _options_of(class_path), "; see --help")
        return f"`{option[-1]}` is not an option of {class_path}{hint}."
    if unknown := re.findall(r"[Uu]nrecognized arguments: (.+)", text):
        if not unknown[0].startswith("-"):
            return f"One argument too many: `{unknown[0]}`; see --help."
        option_ = unknown[0].split()[0]
        return f"No such option: {option_}{_nearest_option(option_)}."
    if several := re.findall(r"ambiguous option: (\S*) could match ([^\n]+)", text):
        option_, matches = several[0][0].partition("=")[0], several[0][1]
        examples = ", ".join(matches.split(", ")[:3])
        return f"`{option_}` may be several options, such as {examples}: write it in full."
    name = ".".join(re.findall(r'(?:Parser key|key) "([^"]+)"', text))
    invalid = re.findall(r"Expected (?:an? )?([^\n]+?)\. Got value:([^\n]*)", text)
    if "Subtypes: [" in text:  # that a value is not null either says nothing
        invalid = [pair for pair in invalid if pair[0] != "<class 'NoneType'>"]
    if invalid:
        expected, value = invalid[-1]
        return f"`{name}`: expected {_describe_type(expected)}, got {_shown(value)}."
    if "Subtypes: [" in text:
        return _union_message(name, text)
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")]
    return one_line(lines[-1])


def one_line(text: str) -> str:
    """The text with single spaces and without line ends."""
    return " ".join(text.split())


def _shown(value: str) -> str:
    """A value as a message shows it."""
    return value.strip() or "an empty value"


def _union_message(name: str, text: str) -> str:
    """Message about a value that is of none of several types, of which the innermost option is the one to name."""
    value = text.partition("Given value: ")[2].partition("\n")[0]
    if nested := re.match(r"NestedArg\(key='([^']+)', val=(.+)\)$", value):
        name, value = f"{name}.{nested[1]}", nested[2].strip("'")
    errors = text.rpartition("Errors:")[2].partition("Given value type")[0]
    reasons = [line.strip(" -") for line in errors.splitlines() if line.strip(" -")]
    reasons = [reason for reason in reasons if not _UNINFORMATIVE.search(reason)]
    if reasons:
        return f"`{name}`: {one_line(reasons[0])}."
    subtypes = text.rpartition("Subtypes: [")[2].partition("\n")[0].removesuffix("]")
    types = re.split(r", (?![^\[]*\])", subtypes)
    expected = list(dict.fromkeys(_describe_type(type_) for type_ in types))
    return f"`{name}`: expected {' or '.join(expected)}, got {_shown(value)}."


def _describe_type(text: str) -> str:
    """A type that jsonargparse names, in words."""
    if literal := re.search(r"Literal\[(.*)\]", text):
        return f"one of {literal[1]}"
    path = re.sub(r"<class '([^']+)'>", r"\1", text).partition("[")[0]
    name = path.rpartition(".")[2]
    if name in _TYPES:
        return _TYPES[name]
    return f"the class path of a {name}" if "." in path else text


def _options_of(class_path: str) -> list[str]:
    """Options of a class: the arguments of its constructor and, if configurable, of its bases' constructors."""
    module, _, name = class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    classes = [c for c in cls.__mro__ if issubclass(c, Configurable) and "__init__" in vars(c)]
    return [p for c in classes or [cls] for p in inspect.signature(c).parameters]


def _nearest_option(option: str) -> str:
    """Hint with the option that is most similar to an unknown one."""
    name = option.lstrip("-").partition("=")[0]
    section, _, rest = name.partition(".")
    if section in _SECTION_CLASSES and rest:
        options = [f"--{section}.{p}" for p in argument_names(_SECTION_CLASSES[section])]
    else:
        sections = difflib.get_close_matches(section, _TOP_LEVEL_OPTIONS, n=1)
        options = [f"--{s}.{rest}" if rest else f"--{s}" for s in sections]
    options = [other for other in options if other != f"--{name}"]  # of another command
    return did_you_mean(f"--{name}", options, "; see --help")
