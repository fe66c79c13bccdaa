"""The procedural birds: deterministic, balanced, nuisance apart from class, masks where the classes differ."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

from ppssl.data.synthetic.birds import ATTRIBUTES, NUISANCES, PARTS, SyntheticBirds, bird_classes
from ppssl.data.synthetic.classes import MAX_CLASSES
from ppssl.data.synthetic.scene import BACKGROUNDS, render_image, render_masks


def _codes(classes):
    return np.array([bird.codes() for bird in classes])


def _grown(mask):
    """``mask`` and the pixels next to it, which antialiasing may touch: ``(S, S)`` bool."""
    padded = np.pad(mask, 1)
    size = len(mask)
    return np.any([padded[y : y + size, x : x + size] for y in range(3) for x in range(3)], axis=0)


def _histograms(images):
    """8 x 8 x 8 RGB histograms of ``(N, 3, S, S)`` uint8 pictures, normalised for the cosine: ``(N, 512)``."""
    bins = (images.long() // 32 * torch.tensor([64, 8, 1])[:, None, None]).sum(1).flatten(1)
    counts = torch.stack([torch.bincount(row, minlength=512) for row in bins]).float()
    return torch.nn.functional.normalize(counts, dim=1).numpy()


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize("n", [2, 3, 7, 40, 41, 111, MAX_CLASSES])
def test_the_nearest_class_differs_in_exactly_one_attribute(n):
    codes = _codes(bird_classes(n))
    distance = (codes[:, None] != codes[None]).sum(-1)
    np.fill_diagonal(distance, 99)
    assert len(codes) == n
    assert (distance.min(1) == 1).all()


def test_classes_of_different_pairs_differ_in_at_least_three_attributes():
    codes = _codes(bird_classes(40))
    distance = (codes[:, None] != codes[None]).sum(-1)
    pair = np.arange(40) // 2
    assert distance[pair[:, None] != pair[None]].min() >= 3


def test_every_attribute_value_is_used_and_every_attribute_separates_a_pair():
    source = SyntheticBirds(1)
    for column, values in zip(_codes(source.birds).T, ATTRIBUTES.values(), strict=True):
        assert np.bincount(column, minlength=len(values)).min() >= 6
    assert {source.distinguishing_attribute(c) for c in range(40)} == set(ATTRIBUTES)


def test_more_classes_leave_the_first_ones_as_they_are():
    assert bird_classes(60)[:40] == bird_classes(40)


def test_distinguishing_part_and_nearest_class_agree_with_the_attributes():
    source = SyntheticBirds(1)
    owner = {name: name for name in ("wing", "crest", "tail")}
    owner |= {"beak_shape": "beak", "beak_colour": "beak", "eye_ring": "eye"}
    for label, bird in enumerate(source.birds):
        other = source.birds[source.nearest_class(label)]
        differing = [name for name in ATTRIBUTES if getattr(bird, name) != getattr(other, name)]
        assert differing == [source.distinguishing_attribute(label)]
        assert PARTS[source.distinguishing_part(label)] == owner[differing[0]]


def test_class_names_are_unique_and_tell_two_attributes():
    source = SyntheticBirds(40)
    assert len(set(source.classes)) == 40
    for bird, name in zip(source.birds, source.classes, strict=True):
        assert f"{bird.beak_colour} bill" in name
        assert f"{bird.tail} tail" in name


def test_captions_name_every_attribute_and_tell_all_classes_apart():
    source = SyntheticBirds(40)
    captions = [source.caption(i) for i in range(40)]
    assert len(set(captions)) == 40
    beaks = {"dagger": "dagger", "cone": "conical", "hooked": "hooked", "curved": "down-curved"}
    wings = {
        "plain": "plain wing",
        "one bar": "one white wing bar",
        "two bars": "two white",
        "spotted": "spotted wing",
    }
    for i, caption in enumerate(captions):
        bird = source.birds[source.labels[i]]
        assert f"{bird.beak_colour} " in caption
        assert beaks[bird.beak_shape] in caption
        assert wings[bird.wing] in caption
        assert ("no crest" if bird.crest == "none" else f"{bird.crest} crest") in caption
        assert f"{bird.tail} tail" in caption
        assert (
            "no eye ring" if bird.eye_ring == "none" else f"{bird.eye_ring} eye ring"
        ) in caption


# ---------------------------------------------------------------- pictures


def test_a_picture_does_not_depend_on_order_memory_or_size():
    one, two = SyntheticBirds(60, image_size=64), SyntheticBirds(90, image_size=64)
    backwards = {i: one.load(i) for i in reversed(range(60))}
    steps = []
    memory = two.materialise(lambda done, total: steps.append((done, total)), every=40)
    assert steps == [(40, 90), (80, 90), (90, 90)]
    assert memory.shape == (90, 3, 64, 64)
    assert memory.dtype == torch.uint8
    for i, picture in backwards.items():
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), memory[i].permute(1, 2, 0))
        assert two.load(i) == picture
    assert np.array_equal(one.labels[:40], two.labels[:40])


def test_a_loaded_picture_can_be_written_to():
    source = SyntheticBirds(2, image_size=32)
    source.materialise()
    before = source.load(0)
    source.load(0).paste((0, 0, 0), (0, 0, 32, 32))
    assert source.load(0) == before


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "test"}, {"split": "val"}])
def test_seeds_and_splits_share_no_picture(other):
    one, two = SyntheticBirds(80, image_size=32), SyntheticBirds(80, image_size=32, **other)
    assert not np.array_equal(one.labels, two.labels)
    assert not (one.nuisances()[:, None] == two.nuisances()[None]).all(-1).any()
    a, b = one.materialise().flatten(1), two.materialise().flatten(1)
    assert not (a[:, None] == b[None]).all(-1).any()


def test_labels_are_balanced_and_shuffled():
    labels = SyntheticBirds(410, num_classes=40).labels
    counts = np.bincount(labels, minlength=40)
    assert labels.dtype == np.int64
    assert counts.min() == 10
    assert counts.max() == 11
    assert not np.array_equal(labels[:40], labels[40:80])


def test_nuisance_says_nothing_about_the_class():
    source = SyntheticBirds(4000)
    values = source.nuisances()
    for name, column in zip(NUISANCES, values.T, strict=True):
        if name in ("background", "flip", "twigs"):
            p = stats.chi2_contingency(
                stats.contingency.crosstab(source.labels, column).count
            ).pvalue
        else:
            p = stats.kruskal(*(column[source.labels == c] for c in range(40))).pvalue
        assert p > 1e-3, name
    assert np.array_equal(values, SyntheticBirds(4000, num_classes=7).nuisances())


def test_nuisance_varies_widely():
    values = dict(zip(NUISANCES, SyntheticBirds(1000).nuisances().T, strict=True))
    assert set(values["background"]) == set(range(len(BACKGROUNDS)))
    assert set(values["flip"]) == {0, 1}
    assert set(values["twigs"]) == {0, 1, 2, 3}
    assert len(set(values["background_hue"])) == 2
    assert len(set(values["body_hue"])) == 3
    assert np.ptp(values["tilt"]) > 0.45
    assert np.ptp(values["scale"]) > 0.17


def test_colours_alone_do_not_give_the_class_away():
    train, test = (
        SyntheticBirds(2000, image_size=48),
        SyntheticBirds(500, image_size=48, split="test"),
    )
    neighbours = KNeighborsClassifier(5).fit(_histograms(train.materialise()), train.labels)
    assert neighbours.score(_histograms(test.materialise()), test.labels) <= 0.17


# ---------------------------------------------------------------- masks


def test_annotations_have_their_shapes_types_and_ranges():
    source = SyntheticBirds(40)
    nuisances = torch.from_numpy(source.nuisances())
    for i in range(40):
        known = source.annotations(i)
        assert known["parts"].shape == (len(PARTS), 96, 96)
        assert known["parts"].dtype == known["object"].dtype == torch.bool
        assert known["object"].shape == (96, 96)
        assert (known["parts"] <= known["object"]).all()
        # At a half-covered border, two parts may share a pixel.
        assert (known["parts"].sum(0) <= 2).all()
        assert torch.equal(known["nuisance"], nuisances[i])
        assert known["attributes"].tolist() == list(source.birds[source.labels[i]].codes())
        assert known["attributes"].tolist() == source.attributes()[i].tolist()


def test_the_box_is_the_smallest_that_holds_the_bird():
    source = SyntheticBirds(20)
    for i in range(20):
        known = source.annotations(i)
        left, top, right, bottom = (known["box"] * 96).round().int().tolist()
        assert 0 <= left < right <= 96
        assert 0 <= top < bottom <= 96
        inside = known["object"][top:bottom, left:right]
        assert inside.sum() == known["object"].sum()
        assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_the_bird_is_large_in_the_picture():
    source = SyntheticBirds(100)
    boxes = torch.stack([source.annotations(i)["box"] for i in range(100)])
    longest = (boxes[:, 2:] - boxes[:, :2]).max(1).values
    assert longest.min() > 0.5
    assert longest.mean() > 0.65


def test_twigs_hide_parts_but_not_the_object():
    source = SyntheticBirds(200)
    twigs = source.nuisances()[:, NUISANCES.index("twigs")]
    lost = 0
    for i in np.flatnonzero(twigs == 3)[:8]:
        nuisance, bird = source._nuisance(i), source.birds[source.labels[i]]
        bare = replace(nuisance, twigs=0.0)
        shown, free = (render_image(bird, n, source._grain(i), 96) for n in (nuisance, bare))
        (parts, whole), (all_parts, all_whole) = (
            render_masks(bird, n, source._grain(i), 96) for n in (nuisance, bare)
        )
        gone = (all_parts & ~parts).any(0)
        assert np.array_equal(whole, all_whole)
        assert not (parts & ~all_parts).any()
        assert (shown != free).any(-1)[gone].mean() > 0.95 or not gone.any()
        lost += gone.sum()
    assert lost > 100


@pytest.mark.parametrize("label", range(12))  # every attribute twice
def test_nearest_classes_differ_in_the_distinguishing_part_alone(label):
    source = SyntheticBirds(400)
    other, part = source.nearest_class(label), source.distinguishing_part(label)
    i = int(np.flatnonzero(source.labels == label)[0])
    nuisance = source._nuisance(i)
    mine, theirs = (
        render_image(source.birds[c], nuisance, source._grain(i), 96).astype(int)
        for c in (label, other)
    )
    own = source.annotations(i)["parts"][part].numpy()
    source.labels[i] = other
    union = own | source.annotations(i)["parts"][part].numpy()
    changed = np.abs(mine - theirs).max(-1) > 0
    # Slivers of less than half a pixel are in no mask.
    assert (changed & ~_grown(union)).sum() <= 0.02 * changed.sum()
    assert (changed & union).sum() >= 0.1 * union.sum() > 0


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "`size` must be at least 1, got 0"),
        ({"num_classes": 1}, "`num_classes` must be between 2 and 200, got 1"),
        ({"num_classes": 201}, "`num_classes` must be between 2 and 200, got 201"),
        ({"image_size": 31}, "`image_size` must be at least 32, got 31"),
        ({"split": "trian"}, "`split` must be one of .*got 'trian'"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticBirds(**arguments)


@pytest.mark.parametrize("i", [-1, 5])
def test_a_picture_that_does_not_exist_is_an_index_error(i):
    with pytest.raises(IndexError, match=f"Image {i} does not exist: there are 5 images"):
        SyntheticBirds(5).load(i)
