import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from ppssl.losses.ais.targets import make_targets, perplexity_temperature
from ppssl.text.bank import TextBank
from ppssl.text.corpus import TextCorpus
from ppssl.utils.errors import UserError


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


def _bank(size: int = 30, views: int = 1) -> TextBank:
    images, texts = _unit(25, views, 8, seed=2).half(), _unit(size, 8, seed=3).float()
    corpus = TextCorpus([f"text {i}" for i in range(size)])
    return TextBank(corpus, texts, images, images.float().mean(dim=(0, 1)), 0, temperature=0.07)


def _perplexity_loops(bank: TextBank, tau: float, hubs: bool, top_k: int | None, k: int) -> float:
    """Mean perplexity of P, from docs/method.md, D5 to D7, by loops in float64."""
    texts, mean = bank.texts.double().numpy(), bank.mean.double().numpy()
    perplexities = []
    for views in bank.images[:, :k].double().numpy():
        p = [0.0] * len(texts)
        for v in views:
            row = [float(v @ t) - (float(mean @ t) if hubs else 0.0) for t in texts]
            kept = sorted(range(len(row)), key=lambda j: -row[j])[: top_k or len(row)]
            weights = {j: math.exp((row[j] - row[kept[0]]) / tau) for j in kept}
            for j in kept:
                p[j] += weights[j] / sum(weights.values()) / len(views)
        perplexities.append(math.exp(-sum(x * math.log(x) for x in p if x > 0)))
    return sum(perplexities) / len(perplexities)


@pytest.mark.parametrize(
    ("perplexity", "top_k", "views", "hubs", "online"),
    [
        (0.1, None, 1, True, False),
        (0.1, 10, 1, True, False),
        (0.3, 10, 1, False, False),
        (0.2, None, 3, True, False),
        (0.3, 6, 3, True, False),
        (0.2, 10, 3, True, True),  # online, P is of one view
    ],
)
def test_auto_is_calibrated_on_p_itself(
    perplexity: float, top_k: int | None, views: int, hubs: bool, online: bool
) -> None:
    bank = _bank(views=views)
    options = {"perplexity": perplexity, "centre_hubs": hubs, "top_k": top_k, "online": online}
    tau = make_targets(bank, **options).temperature
    reached = _perplexity_loops(bank, tau, hubs, top_k, 1 if online else views)
    assert reached == pytest.approx(perplexity * 30, rel=1e-3)


def test_auto_refuses_what_top_k_cannot_reach() -> None:
    """300 texts, the best ten: a perplexity of 30 of ten."""
    with pytest.raises(
        UserError, match=r"`top_k` of 10 .* at most 10, .* asks for 30 of 300 .* below 0\.033"
    ):
        make_targets(_bank(300), top_k=10)
    with pytest.raises(UserError, match=r"`top_k` of 2 .* asks for 3 of 30"):
        make_targets(_bank(views=1), top_k=2)
    assert make_targets(_bank(300), top_k=10, teacher_temperature="teacher").temperature == 0.07
    assert make_targets(_bank(300), top_k=1).temperature == 1  # P is the same at any


def test_auto_is_as_sharp_as_views_allow() -> None:
    """Three views disagree: P cannot be sharper than their mean."""
    bank = _bank(views=3)
    tau = make_targets(bank, perplexity=0.01).temperature
    smallest = _perplexity_loops(bank, 1e-5, True, None, 3)
    assert smallest > 1.5
    assert _perplexity_loops(bank, tau, True, None, 3) == pytest.approx(1.1 * smallest, rel=1e-3)


def test_the_sample_of_a_large_corpus_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    sample = TextBank.sample
    monkeypatch.setattr("ppssl.losses.ais.targets._SAMPLE_ELEMENTS", 30 * 3 * 70)
    monkeypatch.setattr(TextBank, "sample", lambda bank, n: sizes.append(n) or sample(bank, n))
    make_targets(_bank(views=3))
    make_targets(_bank(views=1))
    assert sizes == [70, 210]
