from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ppssl import IADM, PPSSL, FolderDataModule, LossTerm, TrainingStep, UserError
from ppssl.encoder import EncoderInfo
from ppssl.functional import attend
from ppssl.losses.contrastive import MoCo
from reference.saliency import grid_distribution

TINY = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}, "lr": 0.05}


def _model(**kwargs: Any) -> PPSSL:
    torch.manual_seed(0)
    model = PPSSL(
        **TINY,
        contrastive=MoCo(dim=8, queue_size=16, prefill="random"),
        plugins={"iadm": IADM(**kwargs)},
    )
    model.build(num_images=40)
    return model


def _batch(n: int = 4) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    views = [torch.randn(n, 3, 32, 32, generator=draw, dtype=torch.float32) for _ in range(2)]
    return {"views": views, "index": torch.arange(n)}


class Keep(IADM):
    """Remembers the step that it was given."""

    step: TrainingStep

    def forward(self, step: TrainingStep) -> LossTerm:
        self.step = step
        return super().forward(step)


def _run(**kwargs: Any) -> tuple[PPSSL, IADM, TrainingStep, Tensor, dict[str, Tensor]]:
    model = _model()
    plugin = Keep(**{"loss_weight": 1.0, "start": 0.0, "full": 0.0, "every": 1} | kwargs)
    plugin.build(model.encoder.info)
    model.plugins["iadm"] = plugin
    loss, logs = model.losses(_batch(), seed=0, progress=0.5)
    return model, plugin, plugin.step, loss, logs


@pytest.mark.parametrize("target", ["similarity", "loss"])
@pytest.mark.parametrize("order", ["pool_relu", "relu_pool"])
@pytest.mark.parametrize("source", ["image", "output"])
def test_it_is_the_loss_of_the_equations(target: str, order: str, source: str) -> None:
    choices: dict[str, Any] = {"target": target, "order": order, "source": source}
    _, plugin, step, loss, logs = _run(**choices, reference="zero", sharpen=1.5)
    ell = (step.z * step.key).sum(dim=1) if target == "similarity" else step.contrastive_loss
    x = step.image if source == "image" else step.feature_map
    (gradient,) = torch.autograd.grad(ell.sum(), x, retain_graph=True)
    expected = grid_distribution((x * gradient).sum(dim=1).detach(), 4, 4, order, 1.5)
    # z and the contrastive loss are float32 whatever the model, hence the tolerance
    torch.testing.assert_close(
        plugin.saliency(step, (4, 4)).double(), expected, atol=1e-5, rtol=1e-4
    )
    log_map = plugin.branch(step.feature_map).double()
    kl = (torch.special.xlogy(expected, expected) - expected * log_map).sum(dim=(1, 2))
    assert logs["loss_iadm"].item() == pytest.approx(kl.mean().item(), abs=1e-4)
    assert loss.item() == pytest.approx(
        logs["loss_contrastive"].item() + kl.mean().item(), abs=1e-4
    )
    uniform = (torch.special.xlogy(expected, expected) + expected * torch.tensor(16.0).log()).sum(
        (1, 2)
    )
    assert logs["iadm_skill"].item() == pytest.approx(
        1 - (kl.mean() / uniform.mean()).item(), abs=1e-3
    )


def test_the_kl_reaches_encoder_or_branch_only() -> None:
    for use, reaches in (("regularise", True), ("attend", False), ("both", True)):
        _, plugin, step, _, _ = _run(use=use)
        log_map = plugin.branch(step.feature_map.detach() if use == "attend" else step.feature_map)
        kl = (
            plugin(step).value
            - (
                0
                if use == "regularise"
                else step.contrast(attend(step.feature_map, log_map.detach().exp()))
            )
        ).mean()
        (gradient,) = torch.autograd.grad(
            kl, step.feature_map, retain_graph=True, allow_unused=True
        )
        assert ((gradient is not None) and bool(gradient.abs().max() > 1e-12)) == reaches, use
        branch = torch.autograd.grad(kl, list(plugin.branch.parameters()), retain_graph=True)
        assert all(g.abs().max() > 0 for g in branch)


def test_attended_features_enter_a_contrastive_term() -> None:
    _, plugin, step, _, logs = _run(use="attend")
    log_map = plugin.branch(step.feature_map)
    pooled = torch.stack(
        [
            sum(
                log_map.exp()[b, i, j] * step.feature_map[b, :, i, j]
                for i in range(4)
                for j in range(4)
            )
            for b in range(4)
        ]
    )
    torch.testing.assert_close(
        attend(step.feature_map, log_map.exp()), pooled, atol=1e-6, rtol=1e-5
    )
    expected = step.contrast(pooled).mean()
    assert logs["iadm_loss_attended"].item() == pytest.approx(expected.item(), abs=1e-5)
    mean = step.contrast(step.feature_map.mean(dim=(2, 3)))  # uniform attention is the loss itself
    torch.testing.assert_close(mean, step.contrastive_loss, atol=1e-5, rtol=1e-5)
    fine = torch.rand(4, 8, 8).double()
    coarse = fine.unflatten(1, (4, 2)).unflatten(3, (4, 2)).sum(dim=(2, 4))
    torch.testing.assert_close(attend(step.feature_map, fine), attend(step.feature_map, coarse))


def test_the_bias_is_that_of_the_steps_before() -> None:
    model, plugin, step, _, _ = _run(debias=True)
    raw = IADM.saliency(_run()[1], step, (4, 4))
    first = torch.full((4, 4), 1 / 16).lerp(raw.mean(dim=0).float(), 0.01)
    torch.testing.assert_close(plugin.mean_map.float(), first, atol=1e-5, rtol=1e-4)
    model.eval()
    plugin(step)
    torch.testing.assert_close(plugin.mean_map.float(), first, atol=1e-5, rtol=1e-4)


def test_the_bias_begins_anew_at_another_size(image_folder: Path, tmp_path: Path) -> None:
    plugin = IADM(start=0.0, full=0.0, every=1, debias=True)
    _fit(tmp_path, image_folder, PPSSL(**TINY, contrastive=MoCo(dim=8), plugins={"iadm": plugin}))
    again = PPSSL.load_from_checkpoint(tmp_path / "last.ckpt")
    _fit(tmp_path, image_folder, again, image_size=48)
    assert plugin.mean_map.shape == (4, 4)
    assert again.plugins["iadm"].mean_map.shape == (6, 6)
    assert float(again.plugins["iadm"].mean_map.sum()) == pytest.approx(1)


def test_in_the_other_steps_nothing_is_asked_of_the_branch() -> None:
    every, plain = _model(every=3), _model(every=1)
    for number in range(5):
        expected, _ = plain.losses(_batch(), seed=0, progress=0.5, number=number)
        loss, logs = every.losses(_batch(), seed=0, progress=0.5, number=number)
        branch = list(every.plugins["iadm"].parameters())
        gradients = torch.autograd.grad(loss, branch)  # none is unused: DDP waits for them
        if number % 3 == 2:
            assert loss.item() == expected.item()
            assert {"loss_iadm", "iadm_skill"} <= set(logs)
            assert any(g.any() for g in gradients)
        else:
            assert not {"loss_iadm", "iadm_skill"} & set(logs)  # no zeros among the losses
            assert loss.item() == logs["loss_contrastive"].item()
            assert not any(g.any() for g in gradients)


def test_weight() -> None:
    plugin = IADM(loss_weight=2.0, start=0.2, full=0.6)
    assert [plugin.weight(t) for t in (0, 0.2, 0.4, 0.6, 1)] == [0, 0, pytest.approx(1), 2, 2]
    assert IADM(loss_weight=2.0, start=0.0, full=0.0).weight(0.0) == 2.0


def _fit(folder: Path, images: Path, model: PPSSL, image_size: int = 32) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", max_epochs=2, **quiet)  # type: ignore[arg-type]
    data = FolderDataModule(str(images), image_size=image_size, batch_size=8, num_workers=0)
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return trainer


@pytest.mark.parametrize(
    "options", [{"debias": True, "upscale": 2, "use": "both"}, {"source": "output"}]
)
def test_it_trains_and_comes_back(
    image_folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    plugin = IADM(start=0.0, full=0.5, **options)
    model = PPSSL(**TINY, contrastive=MoCo(dim=8), plugins={"iadm": plugin})
    _fit(tmp_path, image_folder, model)
    again = PPSSL.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.plugins["iadm"].config() == plugin.config()
    for name, value in model.state_dict().items():
        assert again.state_dict()[name].equal(value), name


def test_weight_zero_is_the_run_without(image_folder: Path, tmp_path: Path) -> None:
    states = []
    for plugins in (None, {"iadm": IADM(loss_weight=0.0, use="both")}):
        torch.manual_seed(0)
        model = PPSSL(**TINY, contrastive=MoCo(dim=8), plugins=plugins)
        _fit(tmp_path, image_folder, model)
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert states[1][name].equal(value), name


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"loss_weight": -1.0}, "`loss_weight` must be >= 0"),
        ({"start": 0.5, "full": 0.2}, "0 <= start <= full <= 1"),
        ({"sharpen": 0.5}, "`sharpen` must be >= 1"),
        ({"source": "stem"}, "`source` must be one of image, output, got 'stem'"),
        ({"reference": "black"}, "`reference` must be one of"),
        ({"order": "x"}, "`order` must be one of"),
        ({"target": "x"}, "`target` must be one of"),
        ({"use": "x"}, "`use` must be one of"),
        ({"upscale": 0}, "`upscale` must be >= 1"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IADM(**kwargs)


def test_attending_needs_a_pooled_map() -> None:
    info = EncoderInfo(dim=8, channels=6, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(UserError, match="`use: attend` pools the feature map of 6 channels"):
        IADM(use="attend").build(info)
    IADM().build(info)
