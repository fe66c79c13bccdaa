import math

import numpy as np
import pytest
import torch

from ppssl.losses.iadm.health import saliency_health


def _maps(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).view(-1, 2, 2)


def test_known_maps() -> None:
    uniform, point = [0.25] * 4, [1.0, 0.0, 0.0, 0.0]
    flat = saliency_health(_maps(uniform), _maps(uniform))
    assert flat["entropy"] == pytest.approx(1)
    assert flat["kl_uniform"] == pytest.approx(0, abs=1e-6)
    sharp = saliency_health(_maps(point, point), _maps(uniform, uniform))
    assert sharp["entropy"] == 0
    assert sharp["kl_uniform"] == pytest.approx(math.log(4))
    assert sharp["skill"] == pytest.approx(0, abs=1e-6)
    assert saliency_health(_maps(point), _maps(point))["skill"] == pytest.approx(1)


def test_correlation_is_pearsons() -> None:
    target, branch = torch.rand(5, 3, 3).softmax(0), torch.rand(5, 3, 3)
    expected = np.mean(
        [
            np.corrcoef(t.ravel(), b.ravel())[0, 1]
            for t, b in zip(target.numpy(), branch.numpy(), strict=True)
        ]
    )
    assert saliency_health(target, branch)["correlation"] == pytest.approx(expected, abs=1e-5)


def test_energy_and_pointing() -> None:
    mask = torch.zeros(3, 4, 4)
    mask[0, :2, :2] = 1  # the first cell
    mask[1, :2, :] = 1  # the upper two; the third image's object is not seen
    maps = _maps([0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.5, 0.3], [1.0, 0.0, 0.0, 0.0])
    branch = _maps([0.7, 0.1, 0.1, 0.1], [0.4, 0.5, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0])
    health = saliency_health(maps, branch, mask)
    assert health["branch_energy"] == pytest.approx((0.7 + 0.9) / 2)
    assert health["energy"] == pytest.approx((0.5 + 0.2) / 2)
    assert health["energy_chance"] == pytest.approx((0.25 + 0.5) / 2)
    assert health["pointing"] == pytest.approx(0.5)


def test_energy_on_the_parts() -> None:
    parts = torch.zeros(1, 4, 4)
    parts[0, :2, :2] = 1
    health = saliency_health(_maps([0.7, 0.1, 0.1, 0.1]), _maps([0.4, 0.2, 0.2, 0.2]), parts=parts)
    assert health["branch_part_energy"] == pytest.approx(0.4)
    assert health["part_energy"] == pytest.approx(0.7)
    assert health["part_energy_chance"] == pytest.approx(0.25)
    assert "energy" not in health
