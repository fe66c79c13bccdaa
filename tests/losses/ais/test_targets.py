import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from ppssl.losses.ais.targets import perplexity_temperature


def _unit(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("perplexity", [1.2, 3.0, 18.0])
def test_perplexity_temperature(perplexity: float) -> None:
    similarities = _unit(30, 16, seed=0) @ _unit(20, 16, seed=1).T
    tau = perplexity_temperature(similarities, perplexity)
    p = (similarities / tau).softmax(dim=1).numpy()
    reached = np.exp(scipy.stats.entropy(p, axis=1)).mean()
    assert reached == pytest.approx(perplexity, rel=1e-6)


def test_perplexity_temperature_with_ties_ends_at_a_bound() -> None:
    assert perplexity_temperature(torch.zeros(3, 5), 2.0) == pytest.approx(1e-5)


def test_perplexity_has_to_be_reachable() -> None:
    with pytest.raises(ValueError, match="`perplexity` must lie between"):
        perplexity_temperature(torch.zeros(2, 5), 5.0)
