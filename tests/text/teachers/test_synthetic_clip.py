"""The embedded teacher: its interface, its file, and what it knows of birds that no training picture showed."""

import hashlib
import pickle
import re
import subprocess
import sys
import warnings
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from ppssl.data.synthetic.birds import ATTRIBUTES, SyntheticBirds, bird_classes
from ppssl.text.bank import open_bank
from ppssl.text.corpus import TextCorpus
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.load import load_teacher, teacher_fingerprint
from ppssl.text.teachers.synthetic_clip import SyntheticCLIP
from ppssl.text.teachers.towers import TowerConfig, Towers, pack
from ppssl.utils.errors import UserError

WEIGHTS = files("ppssl.text.teachers") / "weights" / "synthetic-clip.safetensors"
CORPUS = files("ppssl.text") / "corpora" / "synthetic-birds.txt"
UNSEEN, COUNT = 3_000_001, 240
# One prompt a value, in words of this test's own; the values in the order of ATTRIBUTES.
PROMPTS = {
    "beak_shape": [
        "a bird with a dagger-shaped beak",
        "a bird with a conical beak",
        "a bird with a hooked beak",
        "a bird with a curved beak",
    ],
    "beak_colour": [f"a bird with a {c} beak" for c in ATTRIBUTES["beak_colour"]],
    "wing": [
        "a bird with a plain wing",
        "a bird with one bar on the wing",
        "a bird with two bars on the wing",
        "a bird with a spotted wing",
    ],
    "crest": [
        "a bird without a crest",
        "a bird with a pointed crest",
        "a bird with a fan crest",
        "a bird with a curled crest",
    ],
    "tail": [f"a bird with a {v} tail" for v in ATTRIBUTES["tail"]],
    "eye_ring": [
        "a bird with no eye ring",
        "a bird with a white eye ring",
        "a bird with a red eye ring",
    ],
}
# How a corpus sentence names a value.
NAMED = {
    "beak_shape": ["dagger|spear", "cone|conical|stubby", "hook", "curve.*sickle|curve[ds]"],
    "beak_colour": [
        rf"{c} (\w+ |\w+-\w+ )?(beak|bill)|(beak|bill) (of|is) (\w+ )?{c}"
        for c in ("red", "yellow", "black", "blue")
    ],
    "wing": [
        "plain wing|no markings|unmarked",
        r"(one|single) (white )?(wing )?bar|single bar",
        r"two (white )?(wing )?bars|pair of bars",
        "spotted|dots|spots",
    ],
    "crest": [
        "no crest|without a crest|crestless",
        "pointed crest|peaked crest|crest with a sharp point",
        "fan crest|fan-shaped crest|crest spread|crest in the shape of a fan",
        "curled crest|curly crest|crest that curls",
    ],
    "tail": [
        "square|cut straight",
        "fork",
        "pointed tail|tail is pointed|narrows to a point|tail with a pointed tip",
        "fan-shaped tail|tail of the bird is spread|fan tail|tail like a fan|tail is a fan",
    ],
    "eye_ring": [
        "no eye ring|no ring|without any ring|without a ring",
        "white eye ring|ring of white|white-ringed|eye is white",
        "red eye ring|ring of red|red-ringed|eye is red",
    ],
}


@cache
def teacher() -> SyntheticCLIP:
    return SyntheticCLIP()


@cache
def unseen() -> tuple[Tensor, np.ndarray]:
    """Pixels and attribute codes of birds of a seed and of classes that training left out."""
    birds = SyntheticBirds(COUNT, num_classes=COUNT // 2, seed=UNSEEN, split="test")
    pixels = torch.stack([teacher().transform(birds.load(i)) for i in range(COUNT)])
    return pixels, birds.attributes()


def corpus() -> list[str]:
    return CORPUS.read_text().splitlines()


def zero_shot(images: Tensor, attribute: str) -> np.ndarray:
    return (images @ teacher().embed_texts(PROMPTS[attribute]).T).argmax(1).numpy()


def test_is_the_teacher_of_that_name() -> None:
    found = load_teacher("synthetic-clip")
    assert isinstance(found, Teacher)
    assert found.name == "synthetic-clip"


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_knows_each_attribute_of_unseen_birds(attribute: str) -> None:
    pixels, codes = unseen()
    right = (
        zero_shot(teacher().embed_images(pixels), attribute)
        == codes[:, list(ATTRIBUTES).index(attribute)]
    )
    assert right.mean() >= 2 / len(ATTRIBUTES[attribute])


def test_knows_attributes_of_unseen_birds_on_average() -> None:
    pixels, codes = unseen()
    images = teacher().embed_images(pixels)
    right = [zero_shot(images, name) == codes[:, k] for k, name in enumerate(ATTRIBUTES)]
    assert np.mean(right) >= 0.7


def test_finds_the_caption_of_an_unseen_class() -> None:
    birds = SyntheticBirds(COUNT, num_classes=COUNT // 2, seed=UNSEEN, split="test")
    texts = teacher().embed_texts([bird.caption() for bird in birds.birds])
    ranks = (teacher().embed_images(unseen()[0]) @ texts.T).argsort(1, descending=True)
    found = ranks[:, :5] == torch.from_numpy(birds.labels)[:, None]
    assert found.any(1).float().mean() > 0.5  # 0.04 by chance


def test_embeddings_are_normalised_float32_without_a_graph() -> None:
    pixels = unseen()[0][:4].clone().requires_grad_()
    images, texts = teacher().embed_images(pixels), teacher().embed_texts(corpus()[:4])
    for embeddings in (images, texts):
        assert embeddings.shape == (4, teacher().dim)
        assert embeddings.dtype == torch.float32
        assert not embeddings.requires_grad
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))


def test_a_batch_of_one_gives_what_a_batch_of_many_gives() -> None:
    pixels, texts = unseen()[0][:5], [*corpus()[:4], bird_classes(2)[0].caption()]
    for embed, batch in ((teacher().embed_images, pixels), (teacher().embed_texts, texts)):
        alone = torch.cat([embed(batch[k : k + 1]) for k in range(5)])  # type: ignore[operator]
        torch.testing.assert_close(alone, embed(batch), atol=1e-5, rtol=0)  # type: ignore[operator]


def test_more_texts_than_one_pass_holds_keep_their_order() -> None:
    texts = (corpus() * 4)[:300]
    torch.testing.assert_close(
        teacher().embed_texts(texts)[92:184], teacher().embed_texts(corpus()), atol=1e-5, rtol=0
    )


def test_no_texts_give_no_rows() -> None:
    assert teacher().embed_texts([]).shape == (0, teacher().dim)


def test_what_belongs_to_which_part_is_read_from_the_order_of_words() -> None:
    """The same words, another bird: a bag of words would not tell the two."""
    birds = SyntheticBirds(400, num_classes=200, seed=UNSEEN + 1, split="test")
    names = list(ATTRIBUTES)
    codes = birds.attributes()
    crest, tail = codes[:, names.index("crest")], codes[:, names.index("tail")]
    one, other = (crest == 1) & (tail == 3), (crest == 2) & (tail == 2)
    texts = teacher().embed_texts(
        ["a bird with a pointed crest and a fan tail", "a bird with a fan crest and a pointed tail"]
    )
    chosen = np.flatnonzero(one | other)
    images = teacher().embed_images(
        torch.stack([teacher().transform(birds.load(int(i))) for i in chosen])
    )
    assert len(chosen) >= 20
    assert ((images @ texts.T).argmax(1).numpy() == other[chosen]).mean() > 0.9


def test_case_and_punctuation_do_not_matter() -> None:
    plain, loud = teacher().embed_texts(["a red hooked beak", "A red, hooked BEAK!"])
    assert torch.equal(plain, loud)


def test_unknown_words_are_left_out_with_one_warning_that_lists_them() -> None:
    texts = ["a gorgeous bird with a red beak", "a bird with a zebra tail, gorgeous"]
    with pytest.warns(UserWarning, match="gorgeous, zebra") as caught:
        found = teacher().embed_texts(texts)
    assert len(caught) == 1
    known = teacher().embed_texts(["a bird with a red beak", "a bird with a tail"])
    torch.testing.assert_close(found, known, atol=1e-5, rtol=0)


def test_a_text_without_a_known_word_is_refused() -> None:
    with pytest.raises(UserError, match="knows no word of 'Vorsicht!'"):
        teacher().embed_texts(["a red beak", "Vorsicht!"])


def test_a_text_that_does_not_fit_is_refused() -> None:
    text = "red " * 63
    assert teacher().fits(text)
    assert not teacher().fits(text + "beak")
    with pytest.raises(ValueError, match="at most 63 known words"):
        teacher().embed_texts([text + "beak"])


def test_one_text_is_no_sequence_of_texts() -> None:
    with pytest.raises(ValueError, match="`texts` must be a sequence"):
        teacher().embed_texts("a red beak")


def test_pixels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`pixels` must be \(B, 3, "):
        teacher().embed_images(torch.zeros(2, 3, 7, 7))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_transform_takes_any_picture_and_survives_pickling(mode: str) -> None:
    transform = pickle.loads(pickle.dumps(teacher().transform))
    pixels = transform(Image.new(mode, (50, 31)))
    assert pixels.shape[0] == 3
    assert pixels.dtype == torch.float32
    assert len(pickle.dumps(teacher().transform)) < 1000
    assert teacher().embed_images(pixels[None]).isfinite().all()


def test_transform_keeps_the_colour_and_centres_it() -> None:
    pixels = teacher().transform(Image.new("RGB", (96, 96), (255, 115, 0)))
    torch.testing.assert_close(pixels[:, 3, 3], torch.tensor([2.2, 0.0, -1.8]), atol=0.01, rtol=0)


def test_temperature_is_that_of_the_logits() -> None:
    with safe_open(str(WEIGHTS), framework="pt") as file:
        scale = file.get_tensor("logit_scale").float().exp()
    assert teacher().temperature == pytest.approx(float(1 / scale), rel=1e-6)
    assert 0.01 < teacher().temperature < 0.5


def test_fingerprint_is_that_of_the_file() -> None:
    assert teacher_fingerprint("synthetic-clip") == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def test_to_moves_it_and_returns_itself() -> None:
    own = SyntheticCLIP()
    assert own.to("meta") is own
    assert own.embed_images(unseen()[0][:1].to("meta")).device.type == "meta"


def test_file_is_small_and_says_where_it_came_from() -> None:
    content = WEIGHTS.read_bytes()
    assert len(content) < 8_000_000
    with safe_open(str(WEIGHTS), framework="pt") as file:
        metadata = file.metadata()
    assert {"schema", "config", "vocabulary", "provenance"} == set(metadata)
    assert '"seed"' in metadata["provenance"]
    assert not re.search(r"/(work|tmp|home|root)\b", str(metadata))


def test_every_caption_of_the_birds_is_known_and_fits() -> None:
    for bird in bird_classes(200):
        assert teacher().tokenizer.unknown(bird.caption()) == []
        assert teacher().fits(bird.caption())


def test_corpus_is_known_and_fits_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embeddings = teacher().embed_texts(corpus())
    assert 60 <= len(embeddings) <= 120
    assert len(set(corpus())) == len(corpus())


def test_corpus_names_every_value_equally_often() -> None:
    counts = {
        (name, k): sum(bool(re.search(pattern, line)) for line in corpus())
        for name, patterns in NAMED.items()
        for k, pattern in enumerate(patterns)
    }
    assert set(counts.values()) == {5}, counts


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_corpus_sentences_suit_the_birds_that_they_describe(attribute: str) -> None:
    """Mean cosine with the sentences of each value: the bird's own value has the largest more often than not."""
    pixels, codes = unseen()
    cosines = teacher().embed_images(pixels) @ teacher().embed_texts(corpus()).T
    cosines -= cosines.mean(0)  # hubs (D6)
    columns = [
        cosines[:, [bool(re.search(pattern, line)) for line in corpus()]].mean(1)
        for pattern in NAMED[attribute]
    ]
    found = torch.stack(columns, 1).argmax(1).numpy()
    right = found == codes[:, list(ATTRIBUTES).index(attribute)]
    assert right.mean() >= 2 / len(ATTRIBUTES[attribute])


@pytest.mark.slow
def test_loads_without_transformers_and_without_a_network() -> None:
    code = (
        "import sys, socket; sys.modules['transformers'] = None\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from ppssl.text.teachers.load import load_teacher\n"
        "print(load_teacher('synthetic-clip').embed_texts(['a red beak']).shape[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1", done.stderr


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match="no such file of weights: nowhere"):
        SyntheticCLIP("nowhere.safetensors")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A file as experiments/teacher/train.py writes it: a teacher of its own sizes, words and weights."""
    torch.manual_seed(0)
    config = TowerConfig(image_size=32, width=4, dim=8, text_width=8, text_layers=1, text_heads=2)
    path = tmp_path / "worldly.safetensors"
    path.write_bytes(pack(Towers(config, 2), config, ["leaves", "red"], {"seed": 0}))
    return path


def test_a_file_is_a_teacher_by_its_path(other: Path) -> None:
    found = load_teacher(str(other))
    assert isinstance(found, SyntheticCLIP)
    assert (found.name, found.dim, found.input_size) == (str(other), 8, 32)
    assert torch.equal(found.embed_texts(["red"]), SyntheticCLIP(other).embed_texts(["red"]))
    with pytest.raises(UserError, match=f"`{other}` knows no word of 'beak'"):
        found.embed_texts(["beak"])


def test_fingerprint_of_a_file_follows_its_content(other: Path) -> None:
    content = other.read_bytes()
    assert teacher_fingerprint(str(other)) == hashlib.sha256(content).hexdigest()
    other.write_bytes(content[:-1])
    assert teacher_fingerprint(str(other)) == hashlib.sha256(content[:-1]).hexdigest()
    other.unlink()
    assert teacher_fingerprint(str(other)) is None
    with pytest.raises(UserError, match="no such file of weights"):
        load_teacher(str(other))


def test_banks_of_two_teachers_are_kept_apart(other: Path, tmp_path: Path) -> None:
    corpus, folder = TextCorpus([["red"], ["red leaves"]]), str(tmp_path / "banks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the embedded one knows no leaves
        embedded = open_bank("synthetic-clip", corpus, None, folder=folder)
    own = open_bank(str(other), corpus, None, folder=folder)
    assert (embedded.texts.shape[1], own.texts.shape[1]) == (128, 8)
    assert torch.equal(open_bank(str(other), corpus, None, folder=folder).texts, own.texts)
    assert len(list((tmp_path / "banks").glob("*/texts-*.npy"))) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no safetensors",
        save({"a": torch.zeros(2)}),
        save({"a": torch.zeros(2)}, {"format": "pt"}),
        save({"a": torch.zeros(2)}, {"schema": "0"}),
    ],
    ids=["empty", "text", "no metadata", "of transformers", "another layout"],
)
def test_a_file_of_another_layout_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors` have format version .*expected 1"):
        load_teacher(str(path))


def test_a_file_that_was_cut_off_is_refused(other: Path) -> None:
    other.write_bytes(other.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"worldly\.safetensors` are damaged"):
        load_teacher(str(other))


def test_views_go_through_its_normalisation() -> None:
    birds = SyntheticBirds(3, seed=UNSEEN, split="test")
    images = [birds.load(i).resize((64, 64)) for i in range(3)]
    views = torch.stack([pil_to_tensor(image) for image in images]) / 255
    pixels = torch.stack([teacher().transform(image) for image in images])
    torch.testing.assert_close(
        teacher().embed_views(views), teacher().embed_images(pixels), atol=1e-4, rtol=1e-3
    )
