"""A tiny random language model writes; what it writes is cleaned, seeded, kept and continued."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from ppssl.cli.main import main
from ppssl.text import corpus_generation
from ppssl.text.corpus import TextCorpus
from ppssl.text.corpus_generation import generate_corpus, prompt
from ppssl.text.language_model import LanguageModel
from ppssl.text.sentence_cleaning import names_class
from ppssl.utils.errors import UserError
from tiny import tiny_language_model

WORDS = "a the bill is red blue long with short tail wing of pale crown kite"
CLASSES = ["Kite", "Red_Tail", "001.Blue_Crown"]
SMALL = {"per_class": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_language_model(tmp_path_factory.mktemp("lm") / "model", WORDS))


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_writes_a_corpus_without_class_names(writer: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "kites.jsonl"
    found = generate_corpus(writer, CLASSES, out, **SMALL)
    assert list(found) == CLASSES
    for name, sentences in found.items():
        assert len(sentences) == 3
        assert not any(names_class(sentence, name) for sentence in sentences)
    rows = _rows(out)
    assert rows == [{"class": c, "description": s} for c, texts in found.items() for s in texts]
    assert TextCorpus.load(out).titles == list(dict.fromkeys(r["description"] for r in rows))
    manifest = json.loads((tmp_path / "new" / "kites.manifest.json").read_text())
    assert (manifest["per_class"], manifest["seed"]) == (3, 0)


def test_a_class_depends_on_seed_and_name_alone(writer: str, tmp_path: Path) -> None:
    both = generate_corpus(writer, CLASSES[:2], tmp_path / "a.jsonl", **SMALL)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    alone = generate_corpus(writer, CLASSES[1:2], tmp_path / "b.jsonl", **SMALL)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = generate_corpus(writer, CLASSES[1:2], tmp_path / "c.jsonl", seed=1, **SMALL)
    assert alone[CLASSES[1]] == both[CLASSES[1]]
    assert alone != other


def test_a_second_run_goes_on(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = tmp_path / "straight.jsonl"
    generate_corpus(writer, CLASSES, straight, **SMALL)
    out = tmp_path / "stopped.jsonl"
    original, asked = LanguageModel.answer, []

    def interrupted(self: LanguageModel, question: str, **kwargs: float) -> str:
        asked.append(question)
        if "Blue Crown" in question:
            raise KeyboardInterrupt
        return original(self, question, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_corpus(writer, CLASSES, out, **SMALL)
    assert {row["class"] for row in _rows(out)} == set(CLASSES[:2])
    monkeypatch.setattr(LanguageModel, "answer", original)
    moved = shutil.copytree(writer, tmp_path / "moved")  # the same model elsewhere
    generate_corpus(str(moved), CLASSES, out, **SMALL)
    assert out.read_text() == straight.read_text()
    monkeypatch.setattr(corpus_generation, "LanguageModel", None)  # a third run loads no model
    assert list(generate_corpus(writer, CLASSES, out, **SMALL)) == CLASSES
    assert sorted(path.name for path in tmp_path.iterdir() if "stopped" in path.name) == [
        "stopped.jsonl",
        "stopped.jsonl.lock",
        "stopped.manifest.json",
    ]


def test_an_interrupted_write_leaves_the_file_whole(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "kites.jsonl"
    generate_corpus(writer, CLASSES[:1], out, **SMALL)
    before = out.read_text()

    def full(self: Path, target: Path) -> Path:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"Cannot write .*the disk is gone"):
        generate_corpus(writer, CLASSES, out, **SMALL)
    assert out.read_text() == before


def test_what_was_made_otherwise_is_not_continued(writer: str, tmp_path: Path) -> None:
    out = tmp_path / "kites.jsonl"
    generate_corpus(writer, CLASSES[:1], out, **SMALL)
    with pytest.raises(UserError, match=r"made with another seed \(0, now 1\)"):
        generate_corpus(writer, CLASSES, out, seed=1, **SMALL)
    other = tiny_language_model(tmp_path / "other", WORDS, seed=1)
    with pytest.raises(UserError, match="made with another model hash"):
        generate_corpus(str(other), CLASSES, out, **SMALL)
    with (
        FileLock(tmp_path / "kites.jsonl.lock"),
        pytest.raises(UserError, match="Another process is writing"),
    ):
        generate_corpus(writer, CLASSES, out, **SMALL)
    out.write_text("{broken\n")
    with pytest.raises(UserError, match="cannot be continued"):
        generate_corpus(writer, CLASSES, out, **SMALL)


def test_classes_with_too_few_sentences_are_told(tmp_path: Path) -> None:
    model = str(tiny_language_model(tmp_path / "poor", "red kite red kite kite kite"))
    with (
        pytest.raises(
            UserError,
            match="wrote no usable sentence for any class: use an instruction-tuned model",
        ),
        pytest.warns(UserWarning, match="1 of 1 classes have fewer than 3 sentences, .*'Kite'"),
    ):
        generate_corpus(model, ["Kite"], tmp_path / "kites.jsonl", **SMALL)


def test_chat_template_is_used_where_there_is_one(writer: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(writer, tmp_path / "chat"))
    template = "{% for m in messages %}red {{ m['content'] }} blue{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    model = LanguageModel(str(folder), "cpu")
    decoded = model.tokenizer.decode(model._inputs("the bill")["input_ids"][0])
    assert decoded == "red the bill blue"
    plain = LanguageModel(writer, "cpu")
    assert plain.tokenizer.decode(plain._inputs("the bill")["input_ids"][0]) == "the bill ?"


def test_a_cut_off_line_is_left_out(writer: str) -> None:
    """With the same seed a shorter answer is the beginning of a longer one: its whole lines."""
    model, shortened = LanguageModel(writer, "cpu"), 0
    for seed in range(6):
        ask = {"temperature": 1.0, "seed": seed}
        whole = model.answer("the bill", max_new_tokens=120, **ask)
        for n in (6, 12, 18):
            text = model.answer("the bill", max_new_tokens=n, **ask)
            assert whole.startswith(text)
            assert text == whole or text.endswith("\n") or not text
            shortened += 0 < len(text) < len(whole)
    assert shortened
    with pytest.raises(UserError, match="context of 512 tokens is too short for the question of 6"):
        model.answer("red " * 600, max_new_tokens=5, temperature=1.0, seed=0)


def test_prompt_asks_for_visible_parts() -> None:
    asked = prompt("001.Black_footed_Albatross", kind="bird", per_class=5)
    for part in ("bird", '"Black footed Albatross"', "5 short sentences", "visible part"):
        assert part in asked


def test_command(writer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Kite\nRed_\u2028Tail\n", "utf-8")
    out = tmp_path / "kites.jsonl"
    options = ["--model", writer, "--classes", str(names), "--per-class", "2", "--device", "cpu"]
    assert main(["corpus", "generate", *options, "--out", str(out)]) == 0
    assert out.read_text("utf-8").count("\n") == 4
    assert "Red_\u2028Tail" in capsys.readouterr().out
    assert main(["corpus", "generate", *options, "--out", str(out)]) == 0  # it is read again


def test_the_command_goes_on_where_it_was_interrupted(
    writer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C while the second class is written: 130 and one line; the same command ends as one that ran through."""
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    command = ["corpus", "generate", "--model", writer, "--classes", str(names), "--per-class", "3"]
    command += ["--device", "cpu", "--seed", "4", "--kind", "bird"]
    assert main([*command, "--out", str(tmp_path / "straight.jsonl")]) == 0
    out = tmp_path / "stopped.jsonl"
    original = LanguageModel.answer

    def interrupted(self: LanguageModel, question: str, **kwargs: Any) -> str:
        if CLASSES[1].replace("_", " ") in question:
            raise KeyboardInterrupt
        return original(self, question, **kwargs)

    monkeypatch.setattr(LanguageModel, "answer", interrupted)
    capsys.readouterr()
    assert main([*command, "--out", str(out)]) == 130
    said = capsys.readouterr().err
    assert "Interrupted; the same command continues" in said
    assert "Traceback" not in said
    written = _rows(out)
    assert {row["class"] for row in written} == {CLASSES[0]}
    asked = []

    def counted(self: LanguageModel, question: str, **kwargs: Any) -> str:
        asked.append(question)
        return original(self, question, **kwargs)

    monkeypatch.setattr(LanguageModel, "answer", counted)
    assert main([*command, "--out", str(out)]) == 0
    assert not any(f'"{CLASSES[0]}"' in question for question in asked)
    assert _rows(out)[: len(written)] == written
    assert out.read_text() == (tmp_path / "straight.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model no-such --out x.jsonl", "`model`: cannot read `no-such`"),
        ("--model {clip} --out x.jsonl", "`model`: cannot read"),
        ("--model {writer} --out x.txt", "`out` must be a .jsonl file"),
        ("--model {writer} --out x.jsonl --per-class 0", "`per_class` must be >= 1, got 0"),
        ("--model {writer} --out x.jsonl --temperature 0", "`temperature` must be > 0, got 0.0"),
        ("--model {writer}", "required: generate.out"),
    ],
)
def test_bad_input_is_one_line(
    options: str,
    message: str,
    writer: str,
    clip_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("Kite\n")
    given = options.format(writer=writer, clip=clip_folder).split()
    assert main(["corpus", "generate", "--classes", "names.txt", *given]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("ppssl: ")
