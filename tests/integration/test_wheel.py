"""What is built is what works: the wheel, installed elsewhere, runs `--help` and a recipe."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_wheel_runs_help_and_a_recipe_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "ppssl/py.typed",
        "ppssl/experiments/base.yaml",
        *(
            f"ppssl/experiments/{name}/{recipe}.yaml"
            for name in ("aircraft", "cars", "cub")
            for recipe in ("moco_v2", "pretrain", "linear", "finetune")
        ),
        "ppssl/experiments/synthetic/pretrain.yaml",
        *(
            f"ppssl/reports/templates/{name}"
            for name in ("page.html.j2", "macros.html.j2", "style.css", "page.js")
        ),
        "ppssl/reports/templates/sections/duplicates.html.j2",
    } <= set(names)
    assert not any(name.startswith("tests/") for name in names)
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True)
    # -P keeps the current folder off the path; the wheel comes before the checkout
    env = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}

    def ppssl(*args: str) -> str:
        command = [sys.executable, "-P", "-m", "ppssl", *args]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-P", "-c", "import ppssl; print(ppssl.__file__)"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(site) in where.stdout
    assert "fit" in ppssl("--help")
    tiny = [
        "--data.train_size=80",
        "--data.test_size=40",
        "--data.batch_size=8",
        "--data.num_workers=0",
    ]
    ppssl(
        "fit",
        "--config",
        "ppssl:synthetic/pretrain",
        *tiny,
        "--trainer.max_steps=1",
        "--trainer.default_root_dir=run",
    )
    assert list((tmp_path / "run").rglob("last.ckpt"))
