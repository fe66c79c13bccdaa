from pathlib import Path

import pytest

from tiny import tiny_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP; not to be changed: copy it."""
    return tiny_clip(tmp_path_factory.mktemp("teacher") / "clip")


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where banks are kept."""
    monkeypatch.setenv("PPSSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "banks"
