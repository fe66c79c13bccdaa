"""The teacher's own image features under the probes that the student's are measured with.

    python experiments/bench/teacher_features.py --out experiments/results/synthetic-teacher.json

What AIS could reach at best, and how much of the nuisances the teacher itself keeps. One CPU minute.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from ppssl.evaluation.evaluate import evaluate
from ppssl.studies.lightning_cli import build_recipe
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.load import load_teacher, teacher_fingerprint
from ppssl.utils.results import write_json


class TeacherEncoder(nn.Module):
    """A teacher's image side as an encoder, ``(B, 3, S, S) -> (B, e)``."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.embed = teacher.embed_images
        self.pretrained_cfg = {"mean": teacher.mean, "std": teacher.std}
        self.nothing = nn.Parameter(torch.zeros(1))  # tells where it runs: on the CPU

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings of normalised images."""
        return self.embed(images)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--teacher", default="synthetic-clip")
    parser.add_argument("--recipe", default="ppssl:synthetic/pretrain")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    teacher = load_teacher(args.teacher)
    whole = ["--data.eval_crop=1.0", f"--data.image_size={teacher.input_size}"]
    built = build_recipe(args.recipe, [*whole, "--data.num_workers=0", "--trainer.logger=false"])
    results = evaluate(TeacherEncoder(teacher), built.datamodule, device="cpu")
    path = Path(args.teacher)  # where it lies is this machine's affair
    facts = {"teacher": path.name if path.exists() else args.teacher}
    facts |= {"teacher_hash": teacher_fingerprint(args.teacher)}
    write_json(args.out, results.to_dict() | facts)


if __name__ == "__main__":
    main()
