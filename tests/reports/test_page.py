"""The page of ``ppssl report``: what it says is what was measured; what it cannot show it leaves out with a line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from command_line import RECIPE, error_line, fit_arguments
from ppssl import FolderDataModule, UserError, report
from ppssl.checkpointing.files import read_checkpoint
from ppssl.cli.main import main
from ppssl.inference.embeddings import Embeddings, embed_loader, feature_encoder
from ppssl.reports.run import find_run, starting_encoder
from ppssl.studies.lightning_cli import build_recipe
from reports.conftest import NAMES
from reports.pages import headings, make, results, section, train

SECTIONS = [
    "data_set",
    "metrics",
    "curves",
    "neighbours",
    "confusions",
    "embedding_map",
    "saliency",
    "descriptions",
    "duplicates",
    "labels",
    "settings",
]


def _last(run: Path) -> Path:
    (last,) = run.rglob("last.ckpt")
    return last


def _embedded(run: Path) -> tuple[Embeddings, Embeddings]:
    """Gallery and queries."""
    data = FolderDataModule(_root(run), image_size=32, batch_size=5, num_workers=0)
    data.setup()
    encoder = feature_encoder(_last(run))
    data.normalise_with(encoder.pretrained_cfg["mean"], encoder.pretrained_cfg["std"])
    gallery, queries = (
        embed_loader(encoder, data.eval_loader(split), data) for split in ("train", "test")
    )
    return gallery, queries


def _root(run: Path) -> str:
    return str(read_checkpoint(_last(run))["ppssl"]["data"]["init_args"]["root"])


def test_it_says_what_evaluate_says(run: Path, page: str, tmp_path: Path) -> None:
    written = tmp_path / "results.json"
    assert main(["evaluate", str(_last(run)), "--json", str(written)]) == 0
    expected, found = json.loads(written.read_text()), results(page)
    for name in ("metrics", "intervals", "units", "per_image", "protocol", "seed"):
        assert found[name] == expected[name], name
    text = section(page, "metrics")
    for name, value in expected["metrics"].items():
        shown = f"{100 * value:.1f} %" if name != "rankme" else f"{value:.1f}"
        low, high = (100 * v for v in expected["intervals"].get(name, (0, 0)))
        interval = f" {low:.1f} to {high:.1f}" if name in expected["intervals"] else ""
        assert f"{shown}{interval}" in text.split(f" {name} ", 1)[1], name


def test_all_sections_are_there(page: str) -> None:
    assert headings(page) == SECTIONS
    data = section(page, "data_set")
    assert "Read 36 images of 3 classes: train 24, test 12." in data
    assert "train 24 24 3 8, 8, 8 test 12 12 3 4, 4, 4" in data
    assert "Gallery: 24 labelled training images. Queries: 12 images of the test split." in data
    assert "train/loss_contrastive" in section(page, "curves")
    assert "image GradCAM" in section(page, "saliency")
    assert "not trained with AIS" in section(page, "descriptions")


def test_nothing_is_asked_from_a_network(page: str) -> None:
    loading = re.findall(r"""(?:src|href|action|data)\s*=\s*["']?([^"'\s>]+)""", page)
    loading += re.findall(r"url\(([^)]*)\)", page)
    assert loading
    assert [address for address in loading if not address.startswith(("data:", "#"))] == []
    assert "default-src 'none'" in page
    assert "@import" not in page


def test_a_class_name_is_no_markup_and_no_path_is_told(run: Path, page: str) -> None:
    assert NAMES[0] in section(page, "data_set")
    assert NAMES[0] not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for place in (str(run), _root(run), str(Path.home())):
        assert place not in page


def test_neighbours_are_scikit_learns(run: Path, page: str) -> None:
    gallery, queries = _embedded(run)
    nearest = NearestNeighbors(n_neighbors=8, metric="cosine").fit(gallery.features)
    distance, rows = nearest.kneighbors(queries.features)
    expected = sorted(
        f"{NAMES[queries.labels[q]]}: "
        + ", ".join(
            f"{NAMES[gallery.labels[i]]} {1 - d:.3f}"
            for d, i in zip(distance[q], rows[q], strict=True)
        )
        for q in range(len(queries.labels))
    )
    text = section(page, "neighbours").replace(" same class ", " ").replace(" other class ", " ")
    names = "|".join(map(re.escape, NAMES))
    lines = re.findall(rf"({names}) ((?:(?:{names}) \d\.\d\d\d ?){{8}})", text)
    found = sorted(
        f"{query}: " + ", ".join(re.findall(rf"(?:{names}) \d\.\d+", line)) for query, line in lines
    )
    assert found == expected


def test_hits_and_misses_are_told_apart(run: Path, page: str) -> None:
    gallery, queries = _embedded(run)
    knn = KNeighborsClassifier(1, metric="cosine").fit(gallery.features, gallery.labels)
    hits = int((knn.predict(queries.features) == queries.labels.numpy()).sum())
    misses, right = (
        part.count('class="query"')
        for part in page.split('id="neighbours"')[1].split('id="confusions"')[0].split("Hits: ")
    )
    assert (right, misses) == (hits, len(queries.labels) - hits)
    assert f"{100 * hits / len(queries.labels):.1f} %" in section(page, "neighbours")


def test_confused_classes_are_those_of_the_knn_classifier(run: Path, page: str) -> None:
    gallery, queries = _embedded(run)
    unit = [torch.nn.functional.normalize(e.features.double(), dim=1) for e in (gallery, queries)]
    similarity, rows = (unit[1] @ unit[0].T).topk(5)
    votes = torch.zeros(len(queries.labels), 3, dtype=torch.float64)
    votes.scatter_add_(1, gallery.labels[rows], (similarity / 0.07).exp())
    counts = confusion_matrix(queries.labels, votes.argmax(dim=1), labels=[0, 1, 2])
    text = section(page, "confusions")
    for true in range(3):
        for other in range(3):
            if true != other and counts[true, other] + counts[other, true]:
                line = f"{NAMES[true]} : {counts[true, other]} of 4 taken for {NAMES[other]}"
                assert line in text
    assert f"takes {counts.sum() - counts.trace()} of 12 test images" in text


def test_the_encoder_before_is_the_one_that_the_run_began_with(run: Path, images: Path) -> None:
    options = fit_arguments(images, run)[3:]
    built = build_recipe(RECIPE, options)
    line, encoder = starting_encoder(find_run(run))
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, built.model.encoder.model.state_dict()[name]), name
    assert line.startswith("resnet_small with random weights, seed 0")


def test_a_checkpoint_alone(run: Path, tmp_path: Path) -> None:
    shutil.copy(_last(run), tmp_path / "mine.ckpt")
    page = make(tmp_path / "mine.ckpt", tmp_path / "mine.html")
    assert "There are no logs beside the checkpoint" in section(page, "curves")
    assert "<h1>mine</h1>" in page
    assert results(page)["metrics"]


@pytest.mark.slow
def test_without_labels(images: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i, path in enumerate(sorted((images / split).rglob("*.png"))):
            shutil.copy(path, tmp_path / "images" / split / f"{i}.png")
    run = train(tmp_path / "images", tmp_path / "run")
    page = make(run, tmp_path / "page.html")
    assert headings(page) == SECTIONS
    assert "no training image has a label" in section(page, "confusions")
    assert "two classes" in section(page, "labels")
    metrics = section(page, "metrics")
    assert "views that find each other" in metrics
    assert "knn-1" not in metrics
    assert "There are no labels to compare with" in section(page, "neighbours")
    assert "36 of 36 images" in section(page, "embedding_map")


@pytest.mark.slow
def test_no_image_is_its_own_neighbour(images: Path, tmp_path: Path) -> None:
    """Of four images without labels each has three others."""
    (tmp_path / "images" / "train").mkdir(parents=True)
    for i, path in enumerate(sorted((images / "train").rglob("*.png"))[::6][:5]):
        shutil.copy(path, tmp_path / "images" / "train" / f"{i}.png")
    run = train(tmp_path / "images", tmp_path / "run", "--data.batch_size=2")
    shown = section(make(run, tmp_path / "page.html"), "neighbours")
    assert "inf" not in shown
    assert len(re.findall(r"\b[01]\.\d{3}\b", shown)) == 4 * 3  # one of five is held out


@pytest.mark.slow
def test_one_class(images: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(images / split / "class1", tmp_path / "images" / split / "class1")
    run = train(tmp_path / "images", tmp_path / "run")
    page = make(run, tmp_path / "page.html")
    assert results(page)["metrics"]["knn-1"] == 1
    assert "There is one class only" in section(page, "confusions")


def test_two_runs_side_by_side(run: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    assert main(["report", str(run), str(other), "--out", str(out)]) == 0
    page = out.read_text()
    assert headings(page) == SECTIONS
    first, second = results(page, 1)["metrics"], results(page, 2)["metrics"]
    metrics = section(page, "metrics")
    assert "other less small" in metrics
    (difference,) = re.findall(r" mAP how .*?images ((?:\S+ %? ?)+?)rankme", metrics)
    assert difference.split()[-1] == f"{100 * (second['mAP'] - first['mAP']):+.1f}"
    assert "small: train/loss" in section(page, "curves")
    assert "trainer.max_epochs 1 2 model.lr 0.001 0.05" in section(page, "settings")
    queries = re.findall(r'alt="Query ([^"]+)"', page)
    assert sorted(queries[:12]) == sorted(queries[12:])
    assert len(queries) == 24


@pytest.mark.slow
def test_runs_on_other_images_are_not_compared(
    run: Path, other: Path, images: Path, tmp_path: Path
) -> None:
    shutil.copytree(images, tmp_path / "images")
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "test" / "class1" / "9.png")
    more = FolderDataModule(str(tmp_path / "images"), image_size=32, batch_size=8, num_workers=0)
    fewer = FolderDataModule(_root(run), image_size=32, batch_size=8, num_workers=0)
    page = report([run, other], [fewer, more], out=tmp_path / "both.html").read_text()
    assert "not comparable" in section(page, "metrics")
    assert "other less small" not in page


def test_an_image_that_is_skipped_is_on_no_page(run: Path, images: Path, tmp_path: Path) -> None:
    """Also if no other image is left beside gallery and queries."""
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "train" / NAMES[1] / "0.png").write_bytes(b"none")
    root = str(tmp_path / "images")
    data = FolderDataModule(root, image_size=32, batch_size=8, num_workers=0, on_error="skip")
    with pytest.warns(UserWarning, match=r"0\.png"):
        page = report(run, data, out=tmp_path / "page.html").read_text()
    assert "35 of 36 images" in section(page, "embedding_map")


def _with_a_damaged_image(images: Path, folder: Path, on_error: Any) -> FolderDataModule:
    """The images, one of which cannot be read."""
    shutil.copytree(images, folder)
    (folder / "test" / NAMES[1] / "0.png").write_bytes(b"none")
    return FolderDataModule(
        str(folder), image_size=32, batch_size=8, num_workers=0, on_error=on_error
    )


def test_of_two_runs_a_warning_and_a_line_name_theirs(
    run: Path, images: Path, tmp_path: Path
) -> None:
    """Runs of folders of the same name are named by the folders around them."""
    for folder in ("first", "second"):
        shutil.copytree(run, tmp_path / folder / run.name)
    runs = [tmp_path / "first" / run.name, tmp_path / "second" / run.name]
    whole = FolderDataModule(_root(run), image_size=32, batch_size=8, num_workers=0)
    data = [whole, _with_a_damaged_image(images, tmp_path / "images", "skip")]
    with pytest.warns(UserWarning, match=r"0\.png") as warned:
        page = report(runs, data, out=tmp_path / "page.html").read_text()
    assert all(
        str(warning.message).startswith("second/small: ")
        for warning in warned
        if "0.png" in str(warning.message)
    )
    assert "first/small: Before: resnet_small with random" in section(page, "metrics")
    assert "second/small: Before: resnet_small with random" in section(page, "metrics")
    assert "second/small less first/small" in section(page, "metrics") or "not comparable" in page


def test_of_two_runs_an_error_names_its_own(
    run: Path, other: Path, images: Path, tmp_path: Path
) -> None:
    whole = FolderDataModule(_root(run), image_size=32, batch_size=8, num_workers=0)
    data = [whole, _with_a_damaged_image(images, tmp_path / "images", "raise")]
    with pytest.raises(UserError, match=r"^other: Cannot read .*0\.png"):
        report([run, other], data, out=tmp_path / "page.html")
    content = torch.load(_last(other), weights_only=True)
    content["ppssl"]["data"]["class_path"] = "no_such.Module"
    torch.save(content, tmp_path / "mine.ckpt")
    with pytest.raises(UserError, match=r"^mine: .*no_such"):
        report([run, tmp_path / "mine.ckpt"], out=tmp_path / "page.html")


def test_on_the_command_line_too(run: Path, tmp_path: Path, capsys: Any) -> None:
    content = torch.load(_last(run), weights_only=True)
    content["ppssl"]["data"]["class_path"] = "no_such.Module"
    torch.save(content, tmp_path / "mine.ckpt")
    out = str(tmp_path / "page.html")
    assert main(["report", str(run), str(tmp_path / "mine.ckpt"), "--out", out]) == 2
    line = error_line(capsys)
    assert "mine.ckpt" in line
    assert "no_such" in line


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["nowhere"], "No such run or checkpoint: nowhere. Give the folder of a run"),
        (["empty"], "No checkpoint (*.ckpt) in the folder empty"),
        (["text.ckpt"], "text.ckpt cannot be read as a checkpoint"),
        (["a", "b", "c"], "A page shows one run or two, got 3."),
    ],
)
def test_a_wrong_run_is_one_line(
    runs: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.ckpt").write_text("hello")
    assert main(["report", *runs, "--out", "page.html"]) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("place", [pytest.param("write_text", marks=pytest.mark.slow), "replace"])
def test_an_interruption_leaves_the_page_of_before(
    place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.html").write_text("before")

    def interrupt(path: Path, *args: Any, **kwargs: Any) -> None:
        path.write_bytes(b"<!doctype")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, place, interrupt)
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_bytes() == b"before"


def test_a_run_without_its_data_set(run: Path, tmp_path: Path) -> None:
    content = torch.load(_last(run), weights_only=True)
    content["ppssl"]["data"] = None
    torch.save(content, tmp_path / "mine.ckpt")
    with pytest.raises(UserError, match="has no data set: give one, in Python `data`"):
        report(tmp_path / "mine.ckpt", out=tmp_path / "page.html")
    data = FolderDataModule(_root(run), image_size=32, batch_size=8, num_workers=0)
    report(tmp_path / "mine.ckpt", data, out=tmp_path / "page.html")
    assert np.isclose(results((tmp_path / "page.html").read_text())["metrics"]["knn-1"], 1, atol=1)


@pytest.mark.slow
def test_weights_that_are_gone_are_no_error(images: Path, run: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.ckpt"
    shutil.copy(_last(run), start)
    other = train(images, tmp_path / "run", f"--model.pretrained={start}")
    page = make(other, tmp_path / "page.html")
    assert "Before: resnet_small with start.ckpt." in section(page, "metrics")
    start.unlink()
    page = make(other, tmp_path / "page.html")
    assert "cannot be read here" in section(page, "metrics")
    assert results(page)["metrics"]


def test_a_module_as_encoder_has_a_page_without_a_before(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint says what weights it began with."""
    (tmp_path / "own_cells.py").write_text(
        "import ppssl\nfrom torch import nn\n\n"
        "class Cells(nn.Conv2d, ppssl.Configurable):\n"
        "    def __init__(self, width: int = 4):\n"
        "        super().__init__(3, width, 8, stride=8)\n"
        "        self.width = width\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    encoder = ["--model.backbone_kwargs=null", "--model.backbone=own_cells.Cells"]
    other = train(images, tmp_path / "run", *encoder)
    page = make(other, tmp_path / "page.html")
    assert "cannot be read here" in section(page, "metrics")
    assert results(page)["metrics"]
