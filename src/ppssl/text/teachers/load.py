"""Loading of a teacher by name: the one in the package, a file of its kind, an image encoder of timm, or a CLIP."""

import hashlib
from pathlib import Path

from ppssl.text.teachers.base import (
    SYNTHETIC,
    Teacher,
    embedded_weights,
    files_hash,
    images_only,
)
from ppssl.utils.paths import AnyPath, expand_text

__all__ = ["check_texts", "embeds_texts", "load_teacher", "teacher_fingerprint", "teacher_name"]


_TIMM = "timm/"


def load_teacher(name: AnyPath | Teacher) -> Teacher:
    """Load a teacher by name.

    Args:
        name: ``"synthetic-clip"``, the teacher in the package; a ``.safetensors`` file that
            experiments/teacher/train.py wrote; ``"timm/<model>"``, an image encoder of timm with its weights; a local
            folder or hub id of a CLIP or SigLIP of transformers; or a teacher, which is returned.

    Raises:
        UserError: The teacher is missing or cannot be read.
    """
    if isinstance(name, Teacher):
        return name
    name = expand_text(name)
    if name == SYNTHETIC or _is_file(name):
        from ppssl.text.teachers.synthetic_clip import SyntheticCLIP

        return SyntheticCLIP(None if name == SYNTHETIC else name)
    if _is_of_timm(name):
        from ppssl.text.teachers.timm_teacher import TimmTeacher

        return TimmTeacher(name.removeprefix(_TIMM))
    from ppssl.text.teachers.clip import CLIPTeacher

    return CLIPTeacher(name)


def check_texts(teacher: AnyPath | Teacher) -> None:
    """Refuse a teacher without a text encoder.

    Raises:
        UserError: It embeds images only.
    """
    if not embeds_texts(teacher):
        raise images_only(teacher_name(teacher))


def embeds_texts(teacher: AnyPath | Teacher) -> bool:
    """Whether a teacher has a text encoder, without loading it."""
    if isinstance(teacher, Teacher):
        return teacher.embeds_texts
    return not _is_of_timm(expand_text(teacher))


def teacher_name(teacher: AnyPath | Teacher) -> str:
    """Name of a teacher, which identifies its banks."""
    return teacher.name if isinstance(teacher, Teacher) else expand_text(teacher)


def teacher_fingerprint(name: AnyPath | Teacher) -> str | None:
    """What tells a teacher's files from others, without loading it; ``None`` if they are not on this machine."""
    if isinstance(name, Teacher):
        return name.fingerprint()
    name = expand_text(name)
    if _is_of_timm(name):  # the name tells
        return None
    if name == SYNTHETIC:
        return hashlib.sha256(embedded_weights()).hexdigest()
    if _is_file(name):
        path = Path(name)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return files_hash(name)


def _is_of_timm(name: str) -> bool:
    return name.startswith(_TIMM) and not Path(name).is_dir()


def _is_file(name: str) -> bool:
    return name.endswith(".safetensors") and not Path(name).is_dir()
