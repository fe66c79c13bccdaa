"""The installation: versions that are known not to fit, packages that hide each other, optional extras."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, requires, version

from packaging.requirements import InvalidRequirement, Requirement

from ppssl.diagnosis.finding import Finding, ok, problem, warning

__all__ = [
    "Installation",
    "check_clashes",
    "check_extras",
    "check_installation",
    "check_versions",
    "this_installation",
]

_EXAMINED = ("ppssl", "torchvision", "lightning", "timm", "transformers", "torchmetrics")
"""Packages whose own requirements are compared with what is installed."""
_CLASHES = {
    (
        "opencv-python",
        "opencv-python-headless",
    ): "both write the module `cv2`, and the later one breaks the other",
    ("pillow-simd", "pillow"): "both write the module `PIL`, and the later one breaks the other",
}
"""Packages that must not be installed together, and why."""
_EXTRAS = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
}
"""Optional extras of ppssl and their packages."""


@dataclass(frozen=True)
class Installation:
    """What is installed.

    Attributes:
        versions: Version of each installed package, by its normalised name.
        requirements: What some packages require, by their name, as in their metadata.
    """

    versions: Mapping[str, str]
    requirements: Mapping[str, Sequence[str]]


def this_installation() -> Installation:
    """Look at the packages of this Python."""
    names = (found.metadata["Name"] for found in distributions())
    versions = {_normalised(name): version(name) for name in names if name}
    requirements = {}
    for name in _EXAMINED:
        try:
            requirements[name] = requires(name) or []
        except PackageNotFoundError:
            continue
    return Installation(versions, requirements)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_installation(installation: Installation) -> list[Finding]:
    """All checks of an installation."""
    return [
        *check_versions(installation),
        *check_clashes(installation),
        *check_extras(installation),
    ]


def check_versions(installation: Installation) -> list[Finding]:
    """Whether each package has the versions that it asks for."""
    wrong = []
    for owner, lines in installation.requirements.items():
        for line in lines:
            misfit = _misfit(line, installation.versions)
            if misfit:
                name, found = misfit
                advice = f"`pip install '{name}'`"
                wrong.append(
                    problem("versions", f"{owner} needs {name}, and {found}", f"{advice}.")
                )
    shown = ("torch", "torchvision", "lightning", "timm")
    versions = ", ".join(f"{n} {installation.versions.get(n, 'missing')}" for n in shown)
    return wrong or [ok("versions", versions)]


def _misfit(line: str, versions: Mapping[str, str]) -> tuple[str, str] | None:
    """The requirement that a line states, and what is there instead; ``None`` if it is met or does not apply."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return None
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    name = f"{requirement.name}{requirement.specifier}"
    installed = versions.get(_normalised(requirement.name))
    if installed is None:
        return name, "it is not installed"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return name, f"{installed} is installed"


def check_clashes(installation: Installation) -> list[Finding]:
    """Whether packages are installed that must not be together."""
    found = []
    for names, why in _CLASHES.items():
        if all(name in installation.versions for name in names):
            advice = f"`pip uninstall {names[0]}`, then `pip install --force-reinstall --no-deps {names[1]}`."
            found.append(warning("packages", f"{names[0]} beside {names[1]}: {why}", advice))
    return found


def check_extras(installation: Installation) -> list[Finding]:
    """Which optional extras are installed; none is needed for training."""
    parts = []
    for extra, names in _EXTRAS.items():
        missing = [name for name in names if name not in installation.versions]
        parts.append(f"no {extra} (`pip install 'ppssl[{extra}]'`)" if missing else extra)
    return [ok("optional extras", ", ".join(parts))]
