import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import Tensor, nn

from ppssl import (
    PPSSL,
    FolderDataModule,
    LossPlugin,
    LossTerm,
    TrainingStep,
    UserError,
    load_encoder,
)
from ppssl.callbacks.monitor import RepresentationMonitor
from ppssl.encoder import EncoderInfo
from ppssl.losses.contrastive import MoCo
from ppssl.losses.iadm.plugin import IADM

TINY = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}
LARGER = ("resnet18", "convnext_atto")


class Whiten(LossPlugin):
    """A user's own plugin: embeddings of zero mean, through a layer of its own."""

    def __init__(self, strength: float = 0.1, dim: int = 4) -> None:
        super().__init__()
        self.strength, self.dim = strength, dim

    def build(self, encoder: EncoderInfo) -> None:
        self.layer = nn.Linear(encoder.dim, self.dim)

    def forward(self, step: TrainingStep) -> LossTerm:
        out = self.layer(step.embedding)
        return LossTerm(out.square().mean(dim=1), {"norm": out.detach().norm()})

    def weight(self, progress: float) -> float:
        return self.strength


def _data(folder: Path, **kwargs: Any) -> FolderDataModule:
    return FolderDataModule(
        str(folder),
        **{"image_size": 32, "batch_size": 8, "num_workers": 0, "val_fraction": 0.25} | kwargs,
    )


def _model(**kwargs: Any) -> PPSSL:
    torch.manual_seed(0)
    return PPSSL(**TINY | {"lr": 0.05, "contrastive": MoCo(dim=8)} | kwargs)


def _trainer(folder: Path, **kwargs: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(
        **{"default_root_dir": str(folder), "max_epochs": 2, "log_every_n_steps": 1}
        | quiet
        | kwargs
    )


def _fit(
    folder: Path, images: Path, model: PPSSL | None = None, **kwargs: Any
) -> tuple[PPSSL, Trainer, str]:
    model = _model() if model is None else model
    trainer = _trainer(folder, **kwargs)
    trainer.fit(model, _data(images))
    path = str(folder / "last.ckpt")
    trainer.save_checkpoint(path)
    return model, trainer, path


def test_as_a_function_it_is_its_encoder() -> None:
    model = PPSSL(backbone="resnet18").eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), model.encoder.model(images))
    assert model(images).shape == (2, 512)


def test_trains_logs_and_monitors(tmp_path: Path, image_folder: Path) -> None:
    model, trainer, _ = _fit(tmp_path, image_folder)
    logged = set(trainer.logged_metrics)
    assert {
        "train/loss",
        "train/loss_contrastive",
        "train/contrastive_accuracy",
        "train/lr",
    } <= logged
    assert {"train/images_per_second", "train/data_wait", "val/knn_top1", "val/rankme"} <= logged
    assert {"val/retrieval_rank1", "val/retrieval_rank5", "val/retrieval_map"} <= logged
    assert trainer.global_step == 6
    assert model.contrastive.queue.is_full()


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", *(pytest.param(n, marks=pytest.mark.slow) for n in LARGER)],
)
def test_checkpoint_gives_the_same_encoder(name: str, tmp_path: Path, image_folder: Path) -> None:
    """`PPSSL(x)` equals `load_encoder(path)(x)`, alone and in a batch."""
    torch.manual_seed(0)
    model = PPSSL(backbone=name, image_size=96, contrastive=MoCo(dim=8), lr=0.01)
    trainer = _trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(model, _data(image_folder, image_size=96, batch_size=4))
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    images = torch.randn(4, 3, 96, 96)
    encoder = load_encoder(path)
    with torch.no_grad():
        expected = model.eval()(images)
        torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=0)
        for i in range(4):
            torch.testing.assert_close(
                encoder(images[i : i + 1])[0], expected[i], atol=1e-5, rtol=0
            )
        restored = PPSSL.load_from_checkpoint(path).eval()
        torch.testing.assert_close(restored(images), expected)


def test_checkpoint_restores_everything_without_arguments(
    tmp_path: Path, image_folder: Path
) -> None:
    model, _, path = _fit(tmp_path, image_folder, _model(plugins={"whiten": Whiten(0.2, dim=3)}))
    restored = PPSSL.load_from_checkpoint(path)
    assert restored.config()["init_args"] | {"pretrained": False} == model.config()["init_args"]
    assert isinstance(restored.plugins["whiten"], Whiten)
    for (name, ours), (other, theirs) in zip(
        model.state_dict().items(), restored.state_dict().items(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(ours, theirs)


def test_checkpoint_is_plain_data(tmp_path: Path, image_folder: Path) -> None:
    _, _, path = _fit(tmp_path, image_folder, _model(plugins={"whiten": Whiten()}))
    content = torch.load(path, weights_only=True)
    assert content["ppssl"]["schema_version"] == 1
    assert content["ppssl"]["data"]["class_path"] == "ppssl.FolderDataModule"


def test_third_plugin_trains_logs_and_is_checkpointed(tmp_path: Path, image_folder: Path) -> None:
    plugin = Whiten(1.0)
    start = None

    class Remember(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            nonlocal start
            start = plugin.layer.weight.detach().clone()

    _, trainer, path = _fit(
        tmp_path, image_folder, _model(plugins={"whiten": plugin}), callbacks=[Remember()]
    )
    assert start is not None
    assert not torch.equal(plugin.layer.weight, start)
    assert {"train/loss_whiten", "train/whiten_norm"} <= set(trainer.logged_metrics)
    assert "plugins.whiten.layer.weight" in torch.load(path, weights_only=True)["state_dict"]
    total = trainer.logged_metrics["train/loss"]
    parts = (
        trainer.logged_metrics["train/loss_contrastive"]
        + trainer.logged_metrics["train/loss_whiten"]
    )
    torch.testing.assert_close(total, parts)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_contrastive_loss_has_a_weight(weight: float) -> None:
    model = _model(plugins={"whiten": Whiten(0.1)}, contrastive_weight=weight)
    model.build(num_images=16)
    images = torch.randn(2, 8, 3, 32, 32)
    batch = {"views": list(images), "index": torch.arange(8)}
    model.contrastive.prefill_batch(batch | {"index": torch.arange(8, 16)}, seed=1)
    total, logs = model.losses(batch, seed=0, progress=0.0)
    torch.testing.assert_close(total, weight * logs["loss_contrastive"] + 0.1 * logs["loss_whiten"])
    total.backward()
    gradients = [p.grad for p in model.contrastive.parameters() if p.grad is not None]
    assert gradients
    assert any(bool(g.any()) for g in gradients) == (weight > 0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_weight_zero_is_bitwise_the_run_without(
    optimizer: Any, tmp_path: Path, image_folder: Path
) -> None:
    runs = []
    for plugins in (None, {"whiten": Whiten(0.0)}):
        model = _model(optimizer=optimizer, lr=0.003, plugins=plugins)
        model, _, _ = _fit(
            tmp_path, image_folder, model, gradient_clip_val=0.5, limit_val_batches=0
        )
        runs.append({k: v for k, v in model.state_dict().items() if not k.startswith("plugins.")})
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])


def test_steps_replay_bitwise_with_any_number_of_workers(
    tmp_path: Path, image_folder: Path
) -> None:
    runs = []
    for workers in (0, 2):
        model, trainer = _model(), _trainer(tmp_path, max_epochs=2, limit_val_batches=0)
        trainer.fit(model, _data(image_folder, num_workers=workers))
        runs.append(model.state_dict())
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])


def test_seeds_differ(tmp_path: Path, image_folder: Path) -> None:
    heads = []
    for seed in (0, 1):
        model = _model(seed=seed)
        trainer = _trainer(tmp_path, max_epochs=1, limit_val_batches=0)
        trainer.fit(model, _data(image_folder, seed=seed))
        heads.append(model.contrastive.head[0].weight.detach().clone())
    assert not torch.equal(*heads)


class _Foreign(LossPlugin):
    def forward(self, step: TrainingStep) -> LossTerm:
        return LossTerm(step.embedding.mean(dim=1))


def test_foreign_class_path_is_refused_before_anything_runs(
    tmp_path: Path, image_folder: Path
) -> None:
    (tmp_path / "evil_plugin.py").write_text("raise SystemExit('this ran')\n")
    sys.path.insert(0, str(tmp_path))
    _, _, path = _fit(tmp_path, image_folder, _model(plugins={"p": _Foreign()}))
    content = torch.load(path, weights_only=True)
    content["ppssl"]["model"]["init_args"]["plugins"]["p"]["class_path"] = "evil_plugin.Evil"
    torch.save(content, path)
    try:
        with pytest.raises(UserError, match=r"`evil_plugin.Evil` is not part of ppssl"):
            PPSSL.load_from_checkpoint(path)
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_plugin" not in sys.modules
    restored = PPSSL.load_from_checkpoint(path, plugins={"p": _Foreign()})  # the way out
    assert isinstance(restored.plugins["p"], _Foreign)


def test_subclass_comes_back_as_itself(tmp_path: Path, image_folder: Path) -> None:
    module = types.ModuleType("my_notebook")

    class Mine(PPSSL):
        def __init__(self, scale: float = 1.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.scale = scale

    Mine.__module__, Mine.__qualname__, module.Mine = "my_notebook", "Mine", Mine  # type: ignore[attr-defined]
    sys.modules["my_notebook"] = module
    try:
        _, _, path = _fit(
            tmp_path, image_folder, Mine(scale=3.0, **TINY, contrastive=MoCo(dim=8), lr=0.01)
        )
        restored = PPSSL.load_from_checkpoint(path)
        assert type(restored) is Mine
        assert restored.scale == 3.0
    finally:
        del sys.modules["my_notebook"]


def test_resumed_run_goes_on_with_queue_and_optimizer(tmp_path: Path, image_folder: Path) -> None:
    straight, _, _ = _fit(tmp_path / "a", image_folder, max_epochs=2, limit_val_batches=0)
    saver = ModelCheckpoint(dirpath=tmp_path / "b", filename="half")
    _trainer(
        tmp_path,
        max_epochs=2,
        limit_val_batches=0,
        limit_train_batches=3,
        callbacks=[saver, _StopAfter(0)],
    ).fit(_model(), _data(image_folder))
    resumed, trainer = _model(), _trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    trainer.fit(resumed, _data(image_folder), ckpt_path=str(tmp_path / "b" / "half.ckpt"))
    for key, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0, msg=key)


class _StopAfter(Callback):
    """End the run after an epoch as a Ctrl-C would: the schedule stays that of the whole run."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch >= self.epoch


def test_schedule_warms_up_and_falls(tmp_path: Path, image_folder: Path) -> None:
    rates = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            rates.append(float(trainer.callback_metrics["train/lr"]))

    _fit(
        tmp_path,
        image_folder,
        _model(lr=1.0, warmup_fraction=1 / 3),
        max_epochs=4,
        callbacks=[Watch()],
        limit_val_batches=0,
    )
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(1.0)
    assert rates[8] == pytest.approx(0.5, abs=1e-6)  # half of the cosine
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_schedule_counts_optimizer_steps(tmp_path: Path, image_folder: Path) -> None:
    """Three batches an epoch, two to a step, the last one alone: eight steps, not twelve."""
    rates = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    _fit(
        tmp_path,
        image_folder,
        _model(lr=1.0, warmup_fraction=0.25),
        max_epochs=4,
        accumulate_grad_batches=2,
        callbacks=[Watch()],
        limit_val_batches=0,
    )
    cosine = [0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(6)]
    assert rates == pytest.approx([0.5, 1.0, *cosine])


def test_learning_rate_scales_with_the_global_batch(tmp_path: Path, image_folder: Path) -> None:
    model = _model(lr=None, base_lr=0.32)
    _fit(
        tmp_path, image_folder, model, accumulate_grad_batches=3, max_epochs=1, limit_val_batches=0
    )
    groups = model.optimizers().param_groups  # type: ignore[union-attr]
    assert groups[0]["initial_lr"] == pytest.approx(0.32 * 8 * 3 / 128)
    assert {g["weight_decay"] for g in groups} == {0.0, 1e-4}


@pytest.mark.parametrize(
    ("optimizer", "pretrained", "base_lr"),
    [("sgd", False, 0.03), ("lars", True, 0.15), ("adamw", False, 2e-3), ("adamw", True, 6e-5)],
)
def test_the_automatic_rate_is_of_optimizer_and_weights_and_stays_that_of_a_checkpoint(
    tmp_path: Path, image_folder: Path, optimizer: Any, pretrained: bool, base_lr: float
) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in _model().encoder.model.state_dict().items()}, weights)
    model = _model(lr=None, optimizer=optimizer, pretrained=str(weights) if pretrained else False)
    _, _, path = _fit(tmp_path, image_folder, model, max_epochs=1, limit_val_batches=0)
    groups = model.optimizers().param_groups  # type: ignore[union-attr]
    assert groups[0]["initial_lr"] == pytest.approx(base_lr * 8 / 128)
    assert PPSSL.load_from_checkpoint(path).base_lr == base_lr


@pytest.mark.parametrize(
    ("backbone", "pretrained", "said"),
    [("test_resnet", False, True), ("test_resnet", True, False), ("resnet_small", False, False)],
)
def test_random_weights_are_reported_where_there_are_others(
    tmp_path: Path,
    image_folder: Path,
    caplog: pytest.LogCaptureFixture,
    backbone: str,
    pretrained: bool,
    said: bool,
) -> None:
    weights = tmp_path / "weights.safetensors"
    state = PPSSL(backbone).encoder.model.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, weights)
    model = PPSSL(
        backbone, pretrained=str(weights) if pretrained else False, contrastive=MoCo(dim=8)
    )
    with caplog.at_level("INFO"):
        path = _fit(tmp_path, image_folder, model, max_epochs=1, limit_val_batches=0)[2]
        assert ("timm has pretrained ones of `test_resnet`" in caplog.text) == said
        caplog.clear()
        trained = PPSSL.load_from_checkpoint(path)
        for again in (model, trained):
            _fit(tmp_path, image_folder, again, max_epochs=1, limit_val_batches=0)
        resumed, trainer = PPSSL(backbone, contrastive=MoCo(dim=8)), _trainer(tmp_path)
        resumed.encoder_start = model.encoder_start
        trainer.fit(resumed, _data(image_folder), ckpt_path=path)
    assert "random weights" not in caplog.text  # those of a training are none


def test_momentum_encoder_moves_once_an_optimizer_step(tmp_path: Path, image_folder: Path) -> None:
    calls = []

    class Counting(MoCo):
        def after_step(self, *args: Any, **kwargs: Any) -> None:
            calls.append("step")
            super().after_step(*args, **kwargs)

        def after_backward(self, *args: Any) -> None:
            calls.append("backward")
            super().after_backward(*args)

    model = _model(contrastive=Counting(dim=8))
    _fit(
        tmp_path, image_folder, model, accumulate_grad_batches=3, max_epochs=2, limit_val_batches=0
    )
    assert calls == ["backward", "backward", "backward", "step"] * 2


def test_plugins_know_how_many_optimizer_steps_came_before(
    tmp_path: Path, image_folder: Path
) -> None:
    numbers = []

    class Numbers(Whiten):
        def forward(self, step: TrainingStep) -> LossTerm:
            numbers.append(step.number)
            return super().forward(step)

    model = _model(plugins={"numbers": Numbers()})
    _fit(
        tmp_path, image_folder, model, accumulate_grad_batches=2, max_epochs=2, limit_val_batches=0
    )
    assert numbers == [0, 0, 1, 2, 2, 3]


def test_users_callback_is_not_doubled(tmp_path: Path, image_folder: Path) -> None:
    mine = RepresentationMonitor(k=1)
    _, trainer, _ = _fit(tmp_path, image_folder, callbacks=[mine])
    assert [c for c in trainer.callbacks if isinstance(c, RepresentationMonitor)] == [mine]  # type: ignore[attr-defined]


def test_users_callbacks_run_beside_the_plugins(tmp_path: Path, image_folder: Path) -> None:
    seen = []

    class Mine(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            seen.append(self)

    class Theirs(Callback):
        on_train_epoch_end = Mine.on_train_epoch_end  # type: ignore[assignment]  # of any callback

    class Changed(Theirs):
        pass

    class Brings(Whiten):
        def callbacks(self) -> list[Callback]:
            return [Theirs()]

    for users, expected in (
        ([Mine()], [Mine, Theirs]),
        ([Theirs()], [Theirs]),
        ([Changed()], [Changed]),
    ):
        model = _model(plugins={"p": Brings()})
        _fit(tmp_path, image_folder, model, callbacks=users, max_epochs=1, limit_val_batches=0)
        assert [type(callback) for callback in seen] == expected
        assert seen[0] is users[0]
        seen.clear()


def test_csv_logger_takes_all_that_is_logged(tmp_path: Path, image_folder: Path) -> None:
    _fit(tmp_path, image_folder, logger=CSVLogger(tmp_path))
    (written,) = tmp_path.rglob("metrics.csv")
    assert {"train/loss", "val/knn_top1"} <= set(written.read_text().splitlines()[0].split(","))


def test_unlabelled_folder_trains_and_says_so(
    tmp_path: Path, image_folder: Path, caplog: Any
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(image_folder.rglob("*.png"))):
        path.rename(flat / f"{i}.png")
    with caplog.at_level("INFO"):
        _, trainer, _ = _fit(tmp_path, flat)
    assert "No labels: kNN and retrieval are not monitored." in caplog.text
    assert not any(name.startswith("val/") for name in trainer.logged_metrics)


def test_requested_data_arrives(tmp_path: Path, image_folder: Path) -> None:
    seen: list[Tensor] = []

    class Wants(_Foreign):
        def data_requests(self) -> dict[str, Any]:
            return {"size": lambda image: torch.tensor(image.size)}

        def forward(self, step: TrainingStep) -> LossTerm:
            seen.append(step.batch["size"])
            return super().forward(step)

    _fit(tmp_path, image_folder, _model(plugins={"w": Wants()}), max_epochs=1)
    assert seen[0].tolist() == [[48, 40]] * 8


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"optimizer": "lamb"},
            "`optimizer` must be one of sgd, adamw, lars, got 'lamb'",
        ),
        ({"warmup_fraction": 1.0}, r"`warmup_fraction` must be in \[0, 1\), got 1.0"),
        ({"lr": 0.0}, "`lr` must be > 0, got 0.0"),
        ({"base_lr": -1.0}, "`base_lr` must be > 0, got -1.0"),
        ({"contrastive_weight": -0.5}, "`contrastive_weight` must be >= 0, got -0.5"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _model(**kwargs)


def test_runs_of_other_seeds_can_start_from_the_same_weights() -> None:
    encoders, heads, branches, following = [], [], [], []
    for seed, init_seed in ((0, 7), (1, 7), (1, 8), (1, None)):
        torch.manual_seed(seed)
        model = PPSSL(
            **TINY, contrastive=MoCo(dim=8), init_seed=init_seed, plugins={"iadm": IADM()}
        )
        model.build(num_images=20)
        encoders.append(model.encoder.model.stem.conv.weight)
        heads.append(model.contrastive.head[0].weight)
        branches.append(model.plugins["iadm"].branch.conv.weight)
        following.append(torch.rand(3))
    for weights in (encoders, heads, branches):
        assert weights[0].equal(weights[1])
        assert not weights[1].equal(weights[2])
        assert not weights[1].equal(weights[3])
    assert not following[0].equal(following[1])  # everything else follows the run's seed,
    assert following[1].equal(following[2])  # whatever the weights drew


def test_first_weights_of_one_part_do_not_depend_on_another_part() -> None:
    heads, branches = [], []
    for plugins in ({"iadm": IADM()}, {"mean": IADM(use="attend"), "iadm": IADM()}):
        model = PPSSL(**TINY, contrastive=MoCo(dim=8), init_seed=7, plugins=plugins)
        model.build(num_images=20)
        heads.append(model.contrastive.head[0].weight)
        branches.append(model.plugins["iadm"].branch.conv.weight)
    assert heads[0].equal(heads[1])
    assert branches[0].equal(branches[1])


def test_a_checkpoint_knows_that_batch_norm_was_frozen(tmp_path: Path, image_folder: Path) -> None:
    """Without the file that the weights came from."""
    weights = tmp_path / "encoder.safetensors"
    state = _model().encoder.model.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, weights)
    model = _model(pretrained=str(weights))
    assert model.encoder.batch_norm == "frozen"
    _, _, path = _fit(tmp_path, image_folder, model)
    weights.unlink()
    assert PPSSL.load_from_checkpoint(path).encoder.batch_norm == "frozen"


def test_pretrained_weights_are_left_alone_at_rate_zero(tmp_path: Path, image_folder: Path) -> None:
    """Batch statistics of a small data set would change the embeddings without any gradient step."""
    weights = tmp_path / "encoder.safetensors"
    torch.manual_seed(0)
    source = _model().encoder
    for layer in source.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
    save_file({k: v.contiguous() for k, v in source.model.state_dict().items()}, weights)
    images = torch.randn(6, 3, 32, 32)
    drift = {}
    for policy in ("auto", "batch"):
        model = _model(pretrained=str(weights), batch_norm=policy, lr=1e-30)
        before = model.encoder.eval()(images)
        model.train()  # Lightning trains a model in the mode that it is in
        _fit(tmp_path / policy, image_folder, model)
        for encoder in (model.encoder, model.contrastive.key_encoder):
            drift[policy, encoder is model.encoder] = (encoder.eval()(images) - before).abs().max()
    assert all(drift["auto", query] < 1e-6 for query in (True, False))
    assert all(drift["batch", query] > 1e-3 for query in (True, False))


class Moved(Callback):
    """After each step: whether encoder and head are still what they were at the start."""

    def __init__(self) -> None:
        self.steps: list[tuple[bool, bool]] = []

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self.before = [p.detach().clone() for p in self._parts(module)]

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        encoder, head = (
            not a.equal(b) for a, b in zip(self.before, self._parts(module), strict=True)
        )
        self.steps.append((encoder, head))

    @staticmethod
    def _parts(module: Any) -> list[torch.Tensor]:
        parts = (module.encoder, module.contrastive.head)
        return [torch.cat([p.detach().flatten() for p in part.parameters()]) for part in parts]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_the_encoder_waits_for_the_heads(
    tmp_path: Path, image_folder: Path, optimizer: Any
) -> None:
    watch = Moved()
    model = _model(encoder_start=0.5, optimizer=optimizer, weight_decay=0.1)
    data = {"limit_val_batches": 0, "callbacks": [watch], "enable_checkpointing": False}
    trainer = _trainer(tmp_path, max_epochs=2, **data)
    trainer.fit(model, _data(image_folder))
    steps = len(watch.steps)
    assert steps == 6
    assert watch.steps == [(i >= 3, True) for i in range(steps)]


def test_the_encoder_waits_by_default_where_its_weights_are_pretrained(tmp_path: Path) -> None:
    weights = tmp_path / "encoder.safetensors"
    state = _model().encoder.model.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, weights)
    assert _model().encoder_start == 0
    assert _model(pretrained=str(weights)).encoder_start == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"`encoder_start` must be in \[0, 1\), got 1.0"):
        _model(encoder_start=1.0)


def test_a_loader_without_a_batch_size_needs_a_rate(tmp_path: Path, image_folder: Path) -> None:
    """A rate for 128 images would be wrong without a word."""
    data = _data(image_folder)
    data.setup()
    images = data.train_dataloader()

    class Batches(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> Any:
            batch = next(iter(images))
            return data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)

    loader = torch.utils.data.DataLoader(Batches(), batch_size=None)
    quiet: dict[str, Any] = {"limit_val_batches": 0, "enable_checkpointing": False}
    with pytest.raises(UserError, match=r"`DataLoader` has no `batch_size`: set .* \(`lr`\)"):
        _trainer(tmp_path, **quiet).fit(_model(lr=None), loader)
    _trainer(tmp_path, max_steps=1, **quiet).fit(_model(lr=0.1), loader)
