import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ppssl import AIS, TrainingStep, UserError
from ppssl.encoder import EncoderInfo
from ppssl.text.bank import TextBank, ranked
from ppssl.text.corpus import TextCorpus
from reference.distillation import text_bank_distillation_loops

INFO = EncoderInfo(dim=6, channels=6, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.25))
WORDS = ["red", "green", "blue", "long", "short"]


def _bank(n: int = 40, e: int = 4, views: int = 1, first: int = 0) -> TextBank:
    draw = torch.Generator().manual_seed(1)
    images = F.normalize(torch.randn(n, views, e, generator=draw), dim=-1).half()
    texts = F.normalize(torch.randn(len(WORDS), e, generator=draw), dim=-1)
    mean = images.float().mean(dim=(0, 1))
    return TextBank(TextCorpus(WORDS), texts, images, mean, first, temperature=0.07)


def _plugin(bank: TextBank | None = None, **kwargs: Any) -> AIS:
    torch.manual_seed(0)
    plugin = AIS("none.txt", **kwargs)
    plugin.attach(_bank() if bank is None else bank)
    plugin.build(INFO)
    return plugin


def _step(index: list[int], seed: int = 0) -> TrainingStep:
    draw = torch.Generator().manual_seed(seed)
    p = torch.randn(len(index), 6, generator=draw, requires_grad=True)
    batch = {"index": torch.tensor(index)}
    nothing = torch.zeros(len(index), 1)
    image = torch.rand(len(index), 3, 8, 8, generator=draw)
    return TrainingStep(batch, image, nothing, p, nothing, nothing, nothing, lambda e: e, 0.5)


def _expected(plugin: AIS, bank: TextBank, step: TrainingStep, **kwargs: Any) -> Tensor:
    s = plugin.student(step.embedding).detach().double()
    v = bank.images[step.batch["index"] - bank.first_index].double()
    hubs = (bank.images.double().mean(dim=(0, 1)) @ bank.texts.double().T).tolist()
    settings = {"hubs": hubs, "tau_t": plugin.targets.temperature} | kwargs
    losses = text_bank_distillation_loops(s, v, bank.texts.double(), tau_s=0.1, **settings)
    return torch.tensor(losses, dtype=torch.float32)


@pytest.mark.parametrize("views", [1, 3])
def test_it_is_the_loss_of_the_equations(views: int) -> None:
    bank, step = _bank(views=views, first=100), _step([103, 139, 100, 103])
    plugin = _plugin(bank)
    torch.testing.assert_close(
        plugin(step).value, _expected(plugin, bank, step), atol=1e-4, rtol=1e-4
    )
    plain = _plugin(bank, centre_hubs=False, top_k=2, teacher_temperature=0.2)
    expected = _expected(plain, bank, step, hubs=None, top_k=2, tau_t=0.2)
    torch.testing.assert_close(plain(step).value, expected, atol=1e-4, rtol=1e-4)


def test_temperatures_of_the_teacher() -> None:
    bank = _bank()
    assert _plugin(bank, teacher_temperature=0.3).targets.temperature == 0.3
    assert _plugin(bank, teacher_temperature="teacher").targets.temperature == 0.07
    plugin = _plugin(bank, perplexity=0.5)
    p = plugin.targets.probabilities(bank.images.float())
    perplexity = torch.special.entr(p).sum(dim=1).exp().mean()
    assert perplexity == pytest.approx(0.5 * len(WORDS), rel=1e-4)
    # A tenth of five is below one description: as sharp as can be said.
    sharp = _plugin(bank).targets
    reached = torch.special.entr(sharp.probabilities(bank.images.float())).sum(dim=1).exp().mean()
    assert reached == pytest.approx(1.1, rel=1e-4)


def test_gradient_reaches_student_and_embedding_only() -> None:
    plugin, step = _plugin(), _step([1, 2, 3])
    plugin(step).value.mean().backward()
    assert step.embedding.grad.abs().min() > 0
    assert {name for name, _ in plugin.named_parameters()} == {
        "student.projection.0.weight",
        "student.projection.0.bias",
        "student.log_temperature",
    }
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in plugin.parameters())


def test_a_sample_does_not_depend_on_its_batch() -> None:
    plugin, step = _plugin(), _step([5, 6, 7])
    value = plugin(step).value
    alone = TrainingStep(
        **vars(step) | {"embedding": step.embedding[1:2], "batch": {"index": torch.tensor([6])}}
    )
    torch.testing.assert_close(plugin(alone).value, value[1:2])


def test_logs() -> None:
    plugin, step = _plugin(), _step([1, 2, 3, 4])
    logs = plugin(step).logs
    with torch.no_grad():
        p = plugin.targets.probabilities(plugin.targets.images.lookup(step.batch["index"]))
        q = plugin.student_sees(step.embedding, plugin.targets.texts)
    entropy = -(p * p.clamp(min=1e-30).log()).sum(dim=1).mean() / math.log(len(WORDS))
    torch.testing.assert_close(logs["entropy_teacher"], entropy)
    assert 0 < logs["entropy_student"] < 1
    assert logs["tau_student"] == pytest.approx(0.1)
    assert logs["agreement"] == (p.argmax(1) == q.argmax(1)).float().mean()
    assert plugin.last_choice.equal(q.argmax(dim=1))
    assert not any(value.requires_grad for value in logs.values())


def test_heads() -> None:
    assert len(list(_plugin(head="linear").student.parameters())) == 3
    mlp = _plugin(head="mlp").student
    assert [tuple(p.shape) for p in mlp.projection.parameters()] == [(6, 6), (6,), (4, 6), (4,)]
    out = mlp(torch.randn(3, 6, dtype=torch.float32))
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))


def test_weight_rises_over_the_warm_up() -> None:
    plugin = AIS("x", loss_weight=2.0, warmup_fraction=0.5)
    assert [plugin.weight(t) for t in (0, 0.25, 0.5, 1)] == [0, 1, 2, 2]
    at_once = AIS("x")
    assert at_once.weight(0.0) == at_once.loss_weight > 0


# -- controls ----------------------------------------------------------------------------------------------------------


def test_control_shuffled_images() -> None:
    bank = _bank()
    mine, shuffled = _plugin(bank).targets, _plugin(bank, control="shuffled_images").targets
    assert not mine.images.images.equal(shuffled.images.images)
    order = mine.images.images.flatten(1).sum(1).sort().values
    torch.testing.assert_close(shuffled.images.images.flatten(1).sum(1).sort().values, order)
    in_place = (shuffled.images.images == mine.images.images).all(dim=(1, 2))
    assert in_place.sum() <= 5  # few stay where they were


def test_control_random_texts_are_orthogonal() -> None:
    texts = _plugin(_bank(e=6), control="random_texts").targets.texts
    torch.testing.assert_close(texts @ texts.T, torch.eye(5), atol=1e-5, rtol=0)
    # Five directions in four dimensions.
    more = _plugin(_bank(e=4), control="random_texts").targets.texts
    torch.testing.assert_close(more[:4] @ more[:4].T, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(more.norm(dim=1), torch.ones(5))


# -- online ------------------------------------------------------------------------------------------------------------


def test_online_the_teacher_sees_the_view(
    clip_folder: Path, banks: Path, image_folder: Path
) -> None:
    from ppssl import FolderDataModule
    from ppssl.text.teachers.clip import CLIPTeacher

    data = FolderDataModule(str(image_folder), image_size=16, batch_size=8, num_workers=0)
    data.setup()
    plugin = AIS("class-names", teacher=str(clip_folder), online=True, perplexity=0.7)
    plugin.prepare(data)
    plugin.build(INFO)
    plugin.prepare(data)  # as before a second training
    step = _step([1, 2, 3])
    view = step.image * torch.tensor(INFO.std).view(3, 1, 1) + torch.tensor(INFO.mean).view(3, 1, 1)
    expected = CLIPTeacher(str(clip_folder)).embed_views(view)
    p = plugin.targets.probabilities(expected[:, None])
    q = plugin.student_sees(step.embedding, plugin.targets.texts)
    loss = plugin(step).value
    torch.testing.assert_close(loss, F.kl_div(q.log(), p, reduction="none").sum(dim=1))
    as_normalised = CLIPTeacher(str(clip_folder)).embed_views(step.image)
    assert (plugin.targets.probabilities(as_normalised[:, None]) - p).abs().max() > 0.01
    loss.mean().backward()
    assert not any("teacher" in name or "online" in name for name in plugin.state_dict())


# -- describe ----------------------------------------------------------------------------------------------------------


def test_describe(clip_folder: Path, banks: Path) -> None:
    plugin = AIS("none.txt", teacher=str(clip_folder))
    plugin.restore_sizes({"teacher_dim": 8})
    plugin.build(INFO)
    said = plugin.describe(torch.randn(2, 6), ["a red bill", "a tail", "a wing"], k=2)
    assert [len(pairs) for pairs in said] == [2, 2]
    everything = plugin.describe(torch.randn(2, 6), ["a red bill", "a tail", "a wing"], k=9)
    assert all(sum(p for _, p in pairs) == pytest.approx(1, abs=1e-5) for pairs in everything)
    assert all(pairs == sorted(pairs, key=lambda pair: -pair[1]) for pairs in everything)
    birds = plugin.describe(torch.randn(2, 6), "birds", k=1)
    assert {title for ((title, _),) in birds} <= set(TextCorpus.load("birds").titles)
    with pytest.raises(UserError, match=r"No corpus `none\.txt`"):
        plugin.describe(torch.randn(2, 6))


def test_ranked() -> None:
    assert ranked(torch.tensor([[0.1, 0.7, 0.2]]), ["a", "b", "c"], 2) == [
        [("b", pytest.approx(0.7)), ("c", pytest.approx(0.2))]
    ]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"loss_weight": -1}, "`loss_weight` must be >= 0"),
        ({"warmup_fraction": 1.5}, "`warmup_fraction` must be in"),
        ({"perplexity": 0.0}, r"`perplexity` must be in \(0, 1\)"),
        ({"teacher_temperature": 0.0}, "`teacher_temperature` must be > 0"),
        ({"teacher_temperature": "hot"}, "'auto' or 'teacher', got 'hot'"),
        ({"head": "deep"}, "`head` must be"),
        ({"top_k": 0}, "`top_k` must be >= 1"),
        ({"teacher_views": 0}, "`teacher_views` must be >= 1"),
        ({"control": "odd"}, "`control` must be one of none, random_texts"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AIS("x", **kwargs)


def test_without_a_bank() -> None:
    with pytest.raises(UserError, match="AIS has no bank yet"):
        AIS("x").build(INFO)
    with pytest.raises(UserError, match="`top_k` is 6, and the corpus has 5"):
        _plugin(top_k=6)
    plugin = AIS("x")
    plugin.restore_sizes({"teacher_dim": 4})
    plugin.build(INFO)
    with pytest.raises(RuntimeError, match="AIS has no bank: call"):
        plugin(_step([0]))
