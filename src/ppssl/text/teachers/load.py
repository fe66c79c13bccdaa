"""Loading of a teacher by name: the one in the package, a file of its kind, or a CLIP or SigLIP of transformers."""

import hashlib
from pathlib import Path

from ppssl.text.teachers.base import SYNTHETIC, Teacher, embedded_weights, hash_folder, local_folder
from ppssl.utils.paths import AnyPath, expand_text

__all__ = ["load_teacher", "teacher_fingerprint"]


def load_teacher(name: AnyPath) -> Teacher:
    """Load a teacher by name.

    Args:
        name: ``"synthetic-clip"``, the teacher in the package; a ``.safetensors`` file that
            experiments/teacher/train.py wrote; or a local folder or hub id of a CLIP or SigLIP of transformers.

    Raises:
        UserError: The teacher is missing or cannot be read.
    """
    name = expand_text(name)
    if name == SYNTHETIC or _is_file(name):
        from ppssl.text.teachers.synthetic_clip import SyntheticCLIP

        return SyntheticCLIP(None if name == SYNTHETIC else name)
    from ppssl.text.teachers.clip import CLIPTeacher

    return CLIPTeacher(name)


def teacher_fingerprint(name: AnyPath) -> str | None:
    """Hash of a teacher's files, without loading it; ``None`` if they are not on this machine."""
    name = expand_text(name)
    if name == SYNTHETIC:
        return hashlib.sha256(embedded_weights()).hexdigest()
    if _is_file(name):
        path = Path(name)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    folder = local_folder(name)
    return None if folder is None else hash_folder(folder)


def _is_file(name: str) -> bool:
    return name.endswith(".safetensors") and not Path(name).is_dir()
