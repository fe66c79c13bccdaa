"""Which checkpoint a run goes on from."""

from pathlib import Path

import torch

__all__ = ["newest_checkpoint"]


def newest_checkpoint(root: Path) -> Path | None:
    """The readable checkpoint with the highest global step below a folder; of equal ones the last written.

    Torn files, which a killed process may leave, are passed over.
    """
    found = []
    for path in root.rglob("*.ckpt"):
        step = _global_step(path)
        if step is not None:
            found.append((step, path.stat().st_mtime, path))
    return max(found)[2] if found else None


def _global_step(path: Path) -> int | None:
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # torch raises many types on torn or foreign files; any of them means: not this one
        return None
