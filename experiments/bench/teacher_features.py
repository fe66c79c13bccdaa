"""The teacher's own image features under the probes that the student's are measured with.

    python experiments/bench/teacher_features.py --out experiments/results/synthetic-teacher.json
    python -m experiments.bench.teacher_features --recipe ppssl:photos/pretrain --root HALVES/report --out OUT \
        --teacher.class_path=ppssl.ZoomTeacher ...  (the options of experiments/ablation/photos_report.yaml)

What AIS could reach at best, and how much of the nuisances the teacher itself keeps. One CPU minute.
"""

from pathlib import Path

from jsonargparse import auto_cli
from torch import Tensor, nn

from ppssl.evaluation.evaluate import evaluate
from ppssl.studies.lightning_cli import build_recipe
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.load import load_teacher, teacher_fingerprint, teacher_name
from ppssl.utils.results import without_local, write_json


class TeacherEncoder(nn.Module):
    """A teacher's image side as an encoder, ``(B, 3, S, S) -> (B, e)``."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.embed = teacher.embed_images
        self.pretrained_cfg = {"mean": teacher.mean, "std": teacher.std}

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings of normalised images."""
        return self.embed(images)


def main(
    out: str,
    teacher: str | Teacher = "synthetic-clip",
    recipe: str = "ppssl:synthetic/pretrain",
    root: str | None = None,
    squash: bool = False,
) -> None:
    """Measure and write.

    Args:
        out: The JSON.
        teacher: As AIS takes it.
        recipe: The recipe whose data are looked at.
        root: Folder of the data, for recipes that need one.
        squash: Whether the teacher sees squashed images, as `data.squash`.
    """
    loaded = load_teacher(teacher)
    whole = ["--data.eval_crop=1.0", f"--data.image_size={loaded.input_size}"]
    whole += [f"--data.squash={str(squash).lower()}", *([f"--data.root={root}"] if root else [])]
    small = ["--data.num_workers=0", "--trainer.logger=false", "--model.pretrained=false"]
    built = build_recipe(recipe, [*whole, *small])
    results = evaluate(TeacherEncoder(loaded), built.datamodule, device="cpu").to_dict()
    results["config"] = without_local(results["config"], whole[3:])
    name = teacher_name(teacher)  # where a file lies is this machine's affair
    facts = {"teacher": Path(name).name if Path(name).exists() else name}
    write_json(out, results | facts | {"teacher_hash": teacher_fingerprint(teacher)})


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
