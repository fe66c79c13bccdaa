"""setup.cfg lists all packages, and all files that they read: what is missing there is missing in the wheel."""

import configparser
import fnmatch
from pathlib import Path

PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src"


def _config() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg")
    return config


def _listed(text: str) -> list[str]:
    return [item.strip() for line in text.splitlines() for item in line.split(",") if item.strip()]


def _files() -> list[Path]:
    ignored = ("__pycache__", ".egg-info")
    files = (path for path in SOURCE.rglob("*") if path.is_file())
    return [path for path in files if not any(part in str(path) for part in ignored)]


def test_all_packages_are_listed() -> None:
    listed = _listed(_config()["options"]["packages"])
    modules = {path.parent for path in _files() if path.suffix == ".py"}
    found = {".".join(folder.relative_to(SOURCE).parts) for folder in modules}
    assert found == {name for name in listed if not name.startswith("ppssl.experiments")}
    recipes = {path.parent for path in (PROJECT / "experiments").glob("*/pretrain.yaml")}
    assert {f"ppssl.experiments.{folder.name}" for folder in recipes} <= set(listed)


def test_all_files_of_the_packages_are_listed() -> None:
    """Among them the templates of the report, the corpora and the teacher's weights."""
    patterns = {name: _listed(text) for name, text in _config()["options.package_data"].items()}
    others = [path for path in _files() if path.suffix != ".py"]
    assert {".j2", ".css", ".js", ".txt", ".safetensors"} <= {path.suffix for path in others}

    def is_listed(path: Path) -> bool:
        return any(
            fnmatch.fnmatch(str(path.relative_to(SOURCE / name.replace(".", "/"))), pattern)
            and str(path.relative_to(SOURCE / name.replace(".", "/"))).count("/")
            == pattern.count("/")
            for name, texts in patterns.items()
            if path.is_relative_to(SOURCE / name.replace(".", "/"))
            for pattern in texts
        )

    assert [str(path) for path in others if not is_listed(path)] == []
