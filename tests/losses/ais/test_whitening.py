from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor

from ppssl import AIS
from ppssl.encoder import EncoderInfo
from ppssl.losses.ais.targets import Control, make_targets
from ppssl.losses.ais.whitening import CorpusWhitening
from ppssl.text.bank import TextBank
from ppssl.text.corpus import TextCorpus
from reference.distillation import text_bank_distillation_loops

INFO = EncoderInfo(dim=6, channels=6, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.25))


def _unit(*shape: int, seed: int) -> Tensor:
    """Directions that differ much in how often they occur."""
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(
        torch.randn(*shape, generator=draw) * torch.logspace(0, -1, shape[-1]) + 0.3, dim=-1
    )


def _bank(texts: int = 30, e: int = 8, views: int = 1) -> TextBank:
    images = _unit(25, views, e, seed=1).half()
    images[7] = 0  # could not be read
    read = images[images.flatten(1).any(dim=1)].float()
    corpus = TextCorpus([f"text {i}" for i in range(texts)])
    return TextBank(corpus, _unit(texts, e, seed=2), images, read.mean(dim=(0, 1)), 0, 0.07)


def _expected(texts: Tensor, x: Tensor, mean: Tensor, ridge: float) -> np.ndarray:
    """By scipy's matrix square root."""
    c = np.cov(texts.double().numpy().T, bias=True)
    r = ridge * np.linalg.eigvalsh(c)[-1]
    root = scipy.linalg.inv(scipy.linalg.sqrtm(c + r * np.eye(len(c))))
    out = (x.double().numpy() - mean.double().numpy()) @ root
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_it_is_the_inverse_root_of_the_covariance(ridge: float) -> None:
    bank = _bank(views=2)
    space = CorpusWhitening.fit(bank.texts, bank.mean, ridge)
    got = space.texts(bank.texts)
    want = _expected(bank.texts, bank.texts, bank.texts.mean(dim=0), ridge)
    np.testing.assert_allclose(got, want, atol=2e-5)
    v = bank.images.float()
    want = _expected(bank.texts, v, bank.mean, ridge)
    want[7] = 0
    np.testing.assert_allclose(space.images(v), want, atol=2e-4)


def test_it_makes_directions_alike_and_drops_those_that_no_text_has() -> None:
    texts = _unit(5, 8, seed=3)  # span four directions around their mean
    space = CorpusWhitening.fit(texts, torch.zeros(8), 1e-9)
    white = (texts - texts.mean(dim=0)) @ space.matrix
    values = torch.linalg.eigvalsh(white.T.cov(correction=0))
    torch.testing.assert_close(values, torch.tensor([0.0] * 4 + [1.0] * 4), atol=1e-3, rtol=0)
    basis = torch.linalg.svd(texts - texts.mean(dim=0))[2]
    assert (basis[4:] @ space.matrix).norm(dim=1).max() < 1e-4


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("control", ["none", "random_texts", "rotated_texts"])
def test_the_loss_is_that_of_whitened_embeddings(control: Control, views: int) -> None:
    bank = _bank(views=views)
    torch.manual_seed(0)
    plugin = AIS("none.txt", whiten=0.01, perplexity=0.8, control=control)
    plugin.attach(bank)
    plugin.build(INFO)
    targets = plugin.targets
    index = torch.tensor([3, 0, 24])
    step: Any = type("Step", (), {})()
    step.batch, step.embedding = {"index": index}, torch.randn(3, 6)
    raw = make_targets(bank, control=control).texts  # the control's texts
    white = torch.from_numpy(_expected(raw, raw, raw.mean(dim=0), 0.01))
    v = torch.from_numpy(_expected(raw, bank.images.float(), bank.mean, 0.01))
    read = torch.arange(25) != 7
    hubs = (v[read].mean(dim=(0, 1)) @ white.T).tolist()
    s = plugin.student(step.embedding).detach().double()
    loops = text_bank_distillation_loops(
        s, v[index], white, tau_s=0.1, tau_t=targets.temperature, hubs=hubs
    )
    torch.testing.assert_close(
        plugin(step).value, torch.tensor(loops, dtype=torch.float32), atol=1e-4, rtol=1e-3
    )
    p = targets.probabilities(bank.images[read].float())
    assert torch.special.entr(p).sum(dim=1).exp().mean() == pytest.approx(0.8 * 30, rel=1e-3)


def test_rotated_texts_are_as_similar_to_each_other() -> None:
    bank = _bank()
    turned = make_targets(bank, control="rotated_texts").texts
    torch.testing.assert_close(turned @ turned.T, bank.texts @ bank.texts.T)
    assert (turned - bank.texts).norm(dim=1).min() > 0.1


def test_a_checkpoint_describes_as_its_run_did(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = _bank()
    monkeypatch.setattr("ppssl.losses.ais.plugin.open_bank", lambda *a, **k: bank)
    plugin = AIS("none.txt", whiten=0.01)
    plugin.attach(bank)
    plugin.build(INFO)
    p = torch.randn(4, 6)
    described = plugin.describe(p, bank.corpus)
    q = plugin.student_sees(p, plugin.targets.texts)
    assert [row[0][0] for row in described] == [bank.corpus.titles[int(i)] for i in q.argmax(dim=1)]

    loaded = AIS("none.txt", whiten=0.01)
    loaded.restore_sizes(plugin.sizes())
    loaded.build(INFO)
    loaded.load_state_dict(plugin.state_dict())
    assert not list(loaded.buffers())
    assert loaded.describe(p, bank.corpus) == described


def test_errors() -> None:
    with pytest.raises(ValueError, match="`whiten` must be > 0, got 0"):
        AIS("none.txt", whiten=0.0)
