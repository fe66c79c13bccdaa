"""Rows: files of text, which are recipes, studies, corpora and lists of names."""

from collections.abc import Callable
from pathlib import Path

from faults.damage import Damage, blank, cut, flipped
from faults.outcome import Row, World


def written(name: str, content: str | bytes) -> Callable[[Path, World], None]:
    """Makes a file of the row."""

    def make(here: Path, world: World) -> None:
        text = content.encode() if isinstance(content, str) else content
        (here / name).write_bytes(text.replace(b"$images", str(world["images"]).encode()))

    return make


def changed(good: str, file: str, damage: Damage) -> Callable[[Path, World], None]:
    """Makes a damaged copy of a good file."""

    def make(here: Path, world: World) -> None:
        (here / file).write_bytes(damage(world[good].read_bytes()))

    return make


FIT = "$fit --config $here/c.yaml"
CONFIGS: dict[str, tuple[str | bytes, str, str]] = {
    "empty": ("", "c.yaml", "line"),
    "comments only": ("# nothing yet\n", "c.yaml", "line"),
    "a list": ("- model\n- data\n", "c.yaml", "line"),
    "an indented key": ("model:\n class_path: ppssl.PPSSL\n   lr: 3\n", "not valid YAML", "line"),
    "indented by tabs": ("model:\n\tlr: 0.1\n", "not valid YAML", "line"),
    "an open bracket": ("trainer: {max_epochs: 1\n", "not valid YAML", "line"),
    "an open quote": ("trainer:\n  default_root_dir: 'runs\n", "not valid YAML", "line"),
    "two documents": ("trainer: {max_epochs: 1}\n---\ntrainer: {max_epochs: 2}\n", "not valid YAML", "line"),
    "JSON": ('{"trainer": {"max_epochs": 1}}', "", "right"),
    "a byte order mark": (b"\xef\xbb\xbftrainer: {max_epochs: 1}\n", "", "right"),
    "UTF-16": ("trainer: {max_epochs: 1}\n".encode("utf-16"), "c.yaml", "either"),
    "Latin-1": ("# für Vögel\ntrainer: {max_epochs: 1}\n".encode("latin-1"), "not valid YAML", "line"),
    "Windows line ends": ("trainer:\r\n  max_epochs: 1\r\n", "", "right"),
    "zero bytes": (b"trainer: {max_epochs: 1}\0\0", "not valid YAML", "line"),
    "an unknown section": ("modle: {lr: 0.1}\n", "modle", "line"),
    "an unknown option": ("trainer: {max_epoch: 1}\n", "max_epoch", "line"),
    "an unknown option of the model": ("model: {init_args: {lrr: 0.1}}\n", "lrr", "line"),
    "a section twice": ("trainer: {max_epochs: 1}\ntrainer: {max_epochs: 2}\n", "trainer", "line"),
    "a key twice": ("trainer:\n  max_epochs: 1\n  max_epochs: 2\n", "max_epochs", "line"),
    "a section that is null": ("trainer:\n", "trainer", "either"),
    "a model that is null": ("model: null\n", "model", "either"),
    "a number as text": ("trainer: {max_epochs: '1'}\n", "max_epochs", "either"),
    "text as a number": ("trainer: {max_epochs: one}\n", "max_epochs", "line"),
    "1e-3, which YAML 1.1 reads as text": ("model: {init_args: {lr: 1e-3}}\n", "", "right"),
    "yes in place of true": ("trainer: {deterministic: yes}\n", "", "right"),
    "a date": ("model: {init_args: {lr: 2024-01-01}}\n", "lr", "line"),
    "callbacks as a mapping": ("trainer: {callbacks: {a: 1}}\n", "`a` is not an option of lightning.Callback", "line"),
    "callbacks of a foreign class": ("trainer: {callbacks: [{class_path: os.system}]}\n", "callbacks", "line"),
    "a model of a foreign class": ("model: {class_path: subprocess.Popen}\n", "model", "line"),
    "data of a model's class": ("data: {class_path: ppssl.PPSSL}\n", "data", "line"),
    "a class path without a class": ("model: {class_path: ppssl}\n", "model", "line"),
    "a class path that is a number": ("model: {class_path: 3}\n", "model", "line"),
    "init_args that are a list": ("model: {init_args: [1, 2]}\n", "init_args|model", "line"),
    "keys that are numbers": ("1: 2\n", "1", "line"),
    "plugins as a list": ("model: {init_args: {plugins: [ppssl.IADM]}}\n", "plugins", "line"),
    "a plugin that is null": ("model: {init_args: {plugins: {iadm: null}}}\n", "iadm", "line"),
    "a plugin in a plugin": ("model: {init_args: {plugins: {a: {class_path: ppssl.IADM, init_args: {every: {}}}}}}\n", "every", "line"),
    "merge keys": ("x: &x {max_epochs: 1}\ntrainer: {<<: *x}\n", "x", "line"),
    "an unknown tag": ("trainer: !epochs 3\n", "not valid YAML", "line"),
    "a hundred thousand keys": ("".join(f"k{i}: 1\n" for i in range(100_001)), "more than any recipe", "line"),
    "values of another program": ("backbone: resnet50\nlr: 0.1\nepochs: 200\n", "backbone", "line"),
}  # fmt: skip


def linked(here: Path, world: World) -> None:
    (here / "c.yaml").symlink_to(here / "c.yaml")


def folder(here: Path, world: World) -> None:
    (here / "c.yaml").mkdir()


RECIPES = [
    *(Row(f"a recipe: {what}", FIT, expected, says, written("c.yaml", text))
      for what, (text, says, expected) in CONFIGS.items()),
    Row("a recipe that is a link to itself", FIT, says="c.yaml", make=linked),
    Row("a recipe that is a folder", FIT, says="c.yaml", make=folder),
    Row("a recipe that is `/dev/null`", "$fit --config /dev/null", says="/dev/null"),
    Row("a recipe that is a photo", "$fit --config $image", says="0.png"),
    Row("a recipe that is a model", "$fit --config $last", says="last.ckpt"),
    Row("a recipe that is a corpus", "$fit --config $corpus_txt", says="corpus.txt"),
    Row("a recipe of the package that does not exist", "$fit --config ppssl:folder/pretrian", says="did you mean ppssl:folder/pretrain"),
    Row("a recipe outside of the package", "$fit --config ppssl:../../../../etc/passwd", says="No such recipe"),
    Row("`--data` of a recipe without data", "evaluate $last --data $overlay_yaml", says="no `data:` section"),
    Row("`--data` of a corpus", "evaluate $last --data $corpus_txt", says="corpus.txt"),
    Row("an override without `--data`", "evaluate $last --data.root=$images", says="--data"),
    *(Row(f"a recipe, bits flipped ({seed})", FIT, "either", make=changed("overlay_yaml", "c.yaml", flipped(seed, 3))) for seed in range(8)),
    *(Row(f"a recipe, cut at {share:.0%}", FIT, "either", make=changed("overlay_yaml", "c.yaml", cut(share))) for share in (0.2, 0.5, 0.9)),
]  # fmt: skip
ABLATE = "ablate $here/s.yaml --out $here/o"
STUDIES = {
    "empty": ("", "s.yaml"),
    "without a recipe": ("seeds: [0]\n", "recipe"),
    "no seeds": ("recipe: ppssl:synthetic/pretrain\nseeds: []\n", "seeds"),
    "a seed that is text": ("recipe: ppssl:synthetic/pretrain\nseeds: [zero]\n", "seeds"),
    "a seed twice": ("recipe: ppssl:synthetic/pretrain\nseeds: [0, 0]\n", "seeds|twice"),
    "a seed of -1": ("recipe: ppssl:synthetic/pretrain\nseeds: [-1]\n", "seed"),
    "an unknown key": ("recipe: ppssl:synthetic/pretrain\nseeds: [0]\nvariant: {}\n", "variant"),
    "an unknown recipe": ("recipe: ppssl:synthetic/pretrian\nseeds: [0]\n", "pretrian"),
    "variants as a list": ("recipe: ppssl:synthetic/pretrain\nseeds: [0]\nvariants: [a, b]\n", "variants"),
    "a name of a variant that is a number": ("recipe: ppssl:synthetic/pretrain\nseeds: [0]\nvariants: {1: {}}\n", "text"),
    "two variants of one folder": ("recipe: ppssl:synthetic/pretrain\nseeds: [0]\nvariants: {a/b: {}, a_b: {model.lr: 1}}\n", "same folder"),
    "a baseline that is no variant": ("recipe: ppssl:synthetic/pretrain\nseeds: [0]\nvariants: {a: {}}\nbaseline: b\n", "b"),
    "an empty grid": ("recipe: ppssl:synthetic/pretrain\nseeds: [0]\ngrid: {model.lr: []}\n", "grid|lr"),
    "a grid that is a number": ("recipe: ppssl:synthetic/pretrain\nseeds: [0]\ngrid: 3\n", "grid"),
    "overrides as text": ("recipe: ppssl:synthetic/pretrain\nseeds: [0]\noverrides: model.lr=1\n", "overrides"),
}  # fmt: skip
ABLATIONS = [
    Row(f"a study: {what}", ABLATE, "line", says, written("s.yaml", text))
    for what, (text, says) in STUDIES.items()
]
TEXT: dict[str, tuple[str, str | bytes, str, str]] = {
    "empty": ("c.txt", "", "2 to 50,000", "line"),
    "one line": ("c.txt", "a bird\n", "2 to 50,000", "line"),
    "the same line again and again": ("c.txt", "a bird\n" * 9, "2 to 50,000", "line"),
    "white space": ("c.txt", " \n\t\n\u2003\n", "2 to 50,000", "line"),
    "too many lines": ("c.txt", "".join(f"bird {i}\n" for i in range(50_001)), "2 to 50,000", "line"),
    "a line of a million letters": ("c.txt", "a" * 10**6 + "\na bird\n", "", "either"),
    "UTF-16": ("c.txt", "a bird\na cat\n".encode("utf-16"), "not UTF-8", "line"),
    "Latin-1": ("c.txt", "ein Vögelchen\nein Vogel\n".encode("latin-1"), "line 1, is not UTF-8", "line"),
    "zero bytes": ("c.txt", b"\0" * 4096, "", "line"),
    "a photo": ("c.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "UTF-8", "line"),
    "no line end": ("c.txt", "a bird\na cat", "", "right"),
    "line ends of old Macs": ("c.txt", "a bird\ra cat\r", "", "right"),
    "another ending": ("c.docx", "a bird\na cat\n", "must be a .txt", "line"),
    "no ending": ("c", "a bird\na cat\n", "must be a .txt", "line"),
    "a table without header": ("c.csv", "1,a red bird\n2,a blue bird\n", "column|header", "line"),
    "a table of one column": ("c.csv", "text\na red bird\na blue bird\n", "", "right"),
    "a table by semicolons": ("c.csv", "id;text\n1;a red, small bird\n2;a blue bird\n", "", "right"),
    "a table by bars": ("c.csv", "id|text\n1|a red bird\n2|a blue bird\n", "", "right"),
    "a row that is too long": ("c.csv", "id,text\n1,a red bird, small\n2,a blue bird\n", "line 2", "line"),
    "a row that is too short": ("c.csv", "id,text\n1\n2,a blue bird\n3,a bird\n", "1 of 3 descriptions are empty and skipped", "right"),
    "an open quote": ("c.csv", 'id,text\n1,"a red bird\n2,a blue bird\n3,a bird\n', "quote|line", "line"),
    "two columns of one name": ("c.csv", "text,text\na,b\nc,d\n", "two columns `text`", "line"),
    "empty cells": ("c.csv", "id,text\n1,\n2,\n", "", "line"),
    "a header alone": ("c.csv", "id,text\n", "2 to 50,000", "line"),
    "nothing in a table": ("c.csv", "", "", "line"),
    "a spreadsheet": ("c.csv", b"PK\x03\x04" + bytes(200), "", "line"),
    "JSON that is a list": ("c.jsonl", '[{"text": "a"}, {"text": "b"}]', "line 1, is not a JSON object", "line"),
    "JSON over several lines": ("c.jsonl", '{\n"text": "a"\n}\n', "line 1, is not JSON", "line"),
    "JSON without texts": ("c.jsonl", '{"id": 1}\n{"id": 2}\n', "must be text, got 1", "line"),
    "JSON texts that are numbers": ("c.jsonl", '{"text": 1}\n{"text": 2}\n', "line 1", "line"),
    "JSON texts that are null": ("c.jsonl", '{"text": null}\n{"text": null}\n', "2 to 50,000", "line"),
    "JSON with a text missing": ("c.jsonl", '{"text": "a"}\n{"txt": "b"}\n{"text": "c"}\n', "1 of 3 descriptions are empty and skipped", "right"),
    "half a surrogate pair": ("c.jsonl", '{"text": "\\ud83d a bird"}\n{"text": "a cat"}\n', "", "either"),
}  # fmt: skip
NAMES = "corpus generate --model $here --classes $here/n.txt --out $here/c.jsonl"
TEACHER = "--teacher synthetic-clip --images $image --out $here/p.png"
CORPORA = [
    *(Row(f"a corpus: {what}", f"corpus inspect $here/{file}", expected, says, written(file, text))
      for what, (file, text, says, expected) in TEXT.items()),
    Row("a corpus that is a folder", "corpus inspect $images", says="images"),
    Row("a column of a text file", "corpus inspect $corpus_txt --column text", says="column"),
    Row("a column that is not there", "corpus inspect $corpus_csv --column txt", says="txt"),
    *(Row(f"a table, bits flipped ({seed})", "corpus inspect $here/c.csv", "either", make=changed("corpus_csv", "c.csv", flipped(seed, 3))) for seed in range(6)),
    *(Row(f"JSON, bits flipped ({seed})", "corpus inspect $here/c.jsonl", "either", make=changed("corpus_jsonl", "c.jsonl", flipped(seed, 3))) for seed in range(6)),
    Row("JSON, a block of zeros", "corpus inspect $here/c.jsonl", "either", make=changed("corpus_jsonl", "c.jsonl", blank(1, 40))),
    Row("JSON, cut", "corpus inspect $here/c.jsonl", "line", "line 3, is not JSON", changed("corpus_jsonl", "c.jsonl", cut(0.9))),
    Row("no class names", NAMES, "line", "no class names", written("n.txt", "\n\n")),
    Row("a class name twice", NAMES, "line", "wren", written("n.txt", "wren\nwren\n")),
    Row("class names that are no text", NAMES, "line", "n.txt", written("n.txt", b"\xff\xfe\x00")),
    Row("a language model that is an empty folder", NAMES, "line", "model", written("n.txt", "wren\ntit\n")),
    Row("a corpus in training: empty", "$fit --model.plugins.ais.corpus=$here/c.txt --model.plugins.ais.teacher=synthetic-clip", "line", "2 to 50,000", written("c.txt", "")),
    Row("a corpus in training: a line of zero bytes", "$fit --model.plugins.ais.corpus=$here/c.txt --model.plugins.ais.teacher=synthetic-clip", "either", "", written("c.txt", b"a bird\na\0b\n")),
    Row("texts that a tokenizer makes nothing of", f"corpus inspect $here/c.txt {TEACHER}", "either", "", written("c.txt", "\u200b\n\ufeff!\n???\n")),
]  # fmt: skip
ROWS = {"Recipes": RECIPES, "Studies": ABLATIONS, "Corpora": CORPORA}
