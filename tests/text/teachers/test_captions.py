"""The captions that teachers are trained with (experiments/teacher): what they say of a scene is what is drawn."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppssl.data.synthetic.birds import ATTRIBUTES, BACKGROUNDS, NUISANCES, SyntheticBirds
from ppssl.utils.randomness import generator

FOLDER = Path(__file__).parents[3] / "experiments" / "teacher"
SUBSET = [0.5, 0.2, 0.1, 0.06, 0.06, 0.08]
SCENE = {
    "background": [
        "meadow|grass",
        "foliage|lea(ves|fy)",
        "reeds|striped",
        "water|wav",
        "blurred|lights|bokeh",
        "sky|cloud",
    ],
    "background_hue": ["warm", "cool"],
    "body_hue": ["reddish|pink", "greenish|tinted with green|olive", "bluish|violet"],
}  # words of each value, in the order of the codes


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "captions", raising=False)
    import captions

    return captions


def test_a_scenes_codes_are_those_of_the_values_drawn(captions: Any) -> None:
    made = captions.Captions(FOLDER / "captions.yaml", SUBSET, FOLDER / "captions-worldly.yaml")
    birds = SyntheticBirds(200, seed=3)
    found = made.scene_codes(birds.nuisances())
    phrases = yaml.safe_load((FOLDER / "captions-worldly.yaml").read_text())["values"]
    assert tuple(phrases["background"]) == BACKGROUNDS
    for k, name in enumerate(SCENE):
        values = birds.nuisances()[:, NUISANCES.index(name)]
        distinct, ranks = np.unique(values, return_inverse=True)
        assert len(distinct) == len(phrases[name]) == made.sizes[len(ATTRIBUTES) + k]
        np.testing.assert_array_equal(found[:, k], ranks)


def test_sentences_name_what_they_state_of_the_scene_and_nothing_else(captions: Any) -> None:
    made = captions.Captions(FOLDER / "captions.yaml", SUBSET, FOLDER / "captions-worldly.yaml")
    rng, stated = generator(0, "captions-test"), np.zeros(len(made.names), dtype=int)
    known = set(made.vocabulary())
    for _ in range(600):
        codes = rng.integers(0, made.sizes).tolist()
        sentence = made.sentence(codes, rng)
        assert set(re.findall(r"[^\W_]+", sentence.text.lower())) <= known
        for k, (name, patterns) in enumerate(SCENE.items(), len(ATTRIBUTES)):
            named = [c for c, words in enumerate(patterns) if re.search(words, sentence.text)]
            assert named == ([codes[k]] if sentence.codes[k] >= 0 else []), (name, sentence)
        assert all(told in (-1, code) for told, code in zip(sentence.codes, codes, strict=True))
        stated += np.array(sentence.codes) >= 0
    assert stated.min() > 0.7 * stated.mean()  # parts are named as often as the scene


def test_without_a_scene_captions_are_those_of_the_embedded_teacher(captions: Any) -> None:
    made, rng = captions.Captions(FOLDER / "captions.yaml", SUBSET), generator(0, "captions-test")
    sentences = [made.sentence([1, 0, 3, 2, 1, 2], rng) for _ in range(300)]
    assert made.names == tuple(ATTRIBUTES)
    assert {len(sentence.codes) for sentence in sentences} == {6}
    scene = "|".join(words for patterns in SCENE.values() for words in patterns)
    assert not any(re.search(scene, sentence.text) for sentence in sentences)


def test_prompts_name_a_value_of_the_scene(captions: Any) -> None:
    made = captions.Captions(FOLDER / "captions.yaml", SUBSET, FOLDER / "captions-worldly.yaml")
    body = made.names.index("body_hue")
    assert made.prompts(body, 2)[1] == "this bird has a bluish body"
    assert made.prompts(made.names.index("tail"), 1)[0] == "a bird with a forked tail"
