import numpy as np
import pytest
import torch

from ppssl.evaluation.nuisance_probe import nuisance_probe

NAMES = ("hue", "tilt", "noise", "odd")


def _data(n: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Features that hold the first two nuisances linearly, and two that nothing holds."""
    rng = np.random.default_rng(seed)
    hue, tilt = rng.integers(3, size=n) / 3, rng.uniform(-1, 1, n)
    values = np.stack([hue, tilt, rng.normal(size=n), rng.integers(2, size=n)], axis=1)
    one_hot = np.eye(3)[(hue * 3).round().astype(int)]
    mixed = np.concatenate([one_hot, tilt[:, None], rng.normal(size=(n, 8))], axis=1)
    mixing = np.random.default_rng(9).normal(size=(12, 12))
    return torch.from_numpy(mixed @ mixing).float(), values.astype(np.float32)


def test_reads_off_what_is_there_and_no_more() -> None:
    (train, train_values), (test, test_values) = _data(600, 0), _data(400, 1)
    skill = nuisance_probe(train, train_values, test, test_values, names=NAMES)
    assert skill["hue"] > 0.97
    assert skill["tilt"] > 0.99
    assert abs(skill["noise"]) < 0.05
    assert abs(skill["odd"]) < 0.15


def test_half_noise_is_half_explained() -> None:
    (train, train_values), (test, test_values) = _data(2000, 0), _data(2000, 1)
    for values in (train_values, test_values):  # as much variance again that no feature knows of
        values[:, 1] += np.random.default_rng(len(values)).uniform(-1, 1, len(values))
    skill = nuisance_probe(train, train_values, test, test_values, names=NAMES)
    assert skill["tilt"] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("constant", [("train",), ("test",), ("train", "test")])
def test_a_nuisance_that_never_changes_has_no_skill(constant: tuple[str, ...]) -> None:
    parts = {"train": _data(60, 0), "test": _data(40, 1)}
    for name in constant:
        parts[name][1][:, 1:4] = 0.5
    skill = nuisance_probe(*parts["train"], *parts["test"], names=NAMES)
    assert {name for name, value in skill.items() if np.isnan(value)} == set(NAMES[1:])


def test_shapes() -> None:
    features, values = _data(20, 0)
    with pytest.raises(ValueError, match=r"`train_values` must be .* = \(20, 3\), got \(20, 4\)"):
        nuisance_probe(features, values, features, values, names=NAMES[:3])
