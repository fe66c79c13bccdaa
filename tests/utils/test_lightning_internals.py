"""Every private name of Lightning and DDP is there and means what ppssl takes it to mean."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ppssl.utils import lightning_internals as internals
from ppssl.utils.lightning_internals import LoopPosition, PublicModelCheckpoint

BATCHES = 3


class Tiny(LightningModule):
    """One weight; the loss of batch ``i`` of an epoch is logged as ``i + 1``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("loss", batch_idx + 1.0, on_epoch=True, batch_size=batch_idx + 1)
        return self.layer(batch).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Lines(Logger):
    """Keeps what Lightning logs, without the epoch: step and values of each line."""

    name, version = "lines", 0

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.lines.append((step, {k: v for k, v in metrics.items() if k != "epoch"}))

    def log_hyperparams(self, *_: Any) -> None:
        pass


def _fit(folder: Path, *callbacks: Callback, ckpt: Path | None = None, **kwargs: Any) -> Trainer:
    """A run of one epoch, or as told."""
    options: dict[str, Any] = {"max_epochs": 1, "logger": False, "log_every_n_steps": 1} | kwargs
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, PublicModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(Tiny(), DataLoader(torch.ones(BATCHES, 1)), ckpt_path=ckpt)
    return trainer


def _at(hook: str, function: Any) -> Callback:
    """A callback that calls a function of the Trainer in a hook."""
    return LambdaCallback(**{hook: lambda trainer, *_: function(trainer)})


# -- where in the training loop a run is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "true"),
    [
        ("on_train_start", {"between_batches", "between_epochs"}),
        ("on_train_epoch_start", {"between_batches"}),
        ("on_train_batch_start", {"in_step"}),
        ("on_before_optimizer_step", {"in_step"}),
        ("on_train_batch_end", {"after_batch"}),
        ("on_train_epoch_end", {"after_epoch", "between_batches", "between_epochs"}),
        ("on_train_end", {"between_batches", "between_epochs"}),
    ],
)
def test_loop_position(hook: str, true: set[str], tmp_path: Path) -> None:
    positions: list[LoopPosition] = []
    _fit(tmp_path, _at(hook, lambda t: positions.append(internals.loop_position(t))), max_epochs=2)
    assert positions
    for position in positions:
        assert {name for name, value in vars(position).items() if value} == true


def test_batches_begun(tmp_path: Path) -> None:
    counts: list[int] = []
    count = _at("on_train_batch_start", lambda t: counts.append(internals.batches_begun(t)))
    _fit(tmp_path, count, max_epochs=2)
    assert counts == [1, 2, 3] * 2


def test_is_accumulating_and_is_last_batch(tmp_path: Path) -> None:
    values: list[tuple[bool, bool]] = []

    def record(trainer: Trainer) -> None:
        values.append((internals.is_accumulating(trainer), internals.is_last_batch(trainer)))

    end = _at("on_train_batch_end", record)
    _fit(tmp_path, end, accumulate_grad_batches=2)
    assert values == [(True, False), (False, False), (False, True)]
    values.clear()
    _fit(tmp_path, end, max_epochs=None, max_steps=2)
    assert values == [(False, False), (False, True)]


def test_load_training_data(tmp_path: Path) -> None:
    class Counts(Callback):
        images = 0

        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            assert trainer.train_dataloader is None
            self.images = len(internals.load_training_data(trainer).dataset)

    for limits in ({"max_epochs": 1}, {"max_epochs": -1, "max_steps": 1}):
        counts = Counts()
        _fit(tmp_path, counts, **limits)
        assert counts.images == BATCHES


# -- going on at an epoch's end ---------------------------------------------------------------------------------------


class Epochs(Callback):
    """Notes what happens, and saves at the first epoch's end with or without what ppssl does then and later."""

    def __init__(self, path: Path, leave_out: str = "") -> None:
        self.path, self.leave_out = path, leave_out
        self.events: list[tuple[str, int]] = []

    def on_save_checkpoint(self, trainer: Trainer, module: Any, checkpoint: Any) -> None:
        if self.leave_out != "complete_epoch":
            internals.complete_epoch(checkpoint)

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        if trainer.global_step and self.leave_out != "begin_next_epoch":
            internals.begin_next_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.events.append(("step", trainer.current_epoch))

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self.events.append(("end", trainer.current_epoch))
        if trainer.global_step == BATCHES:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("leave_out", ["", "complete_epoch", "begin_next_epoch"])
def test_complete_epoch_and_begin_next_epoch(leave_out: str, tmp_path: Path) -> None:
    """With both, and only with both, a run resumed at an epoch's end is the rest of the uninterrupted one."""
    limits = {"max_epochs": None, "max_steps": 3 * BATCHES}
    straight, resumed = (Epochs(tmp_path / "epoch.ckpt", leave_out) for _ in range(2))
    _fit(tmp_path, straight, **limits)
    _fit(tmp_path, resumed, ckpt=tmp_path / "epoch.ckpt", **limits)
    rest = straight.events[BATCHES + 1 :]
    assert rest == [(name, epoch) for epoch in (1, 2) for name in ["step"] * BATCHES + ["end"]]
    assert (resumed.events == rest) is (leave_out == "")


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_batch_start"])
def test_recount_batches(hook: str, tmp_path: Path) -> None:
    """Counted as 1 of 3 done in place of 2, after a batch or between two, a run has 2 batches left."""
    path = tmp_path / "middle.ckpt"
    saved = {"on_train_batch_end": 2, "on_train_batch_start": 2}

    def save(trainer: Trainer) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        if done == saved[hook] and not path.exists():
            trainer.save_checkpoint(path)

    class Recount(Callback):
        def on_load_checkpoint(self, trainer: Trainer, module: Any, checkpoint: Any) -> None:
            internals.recount_batches(checkpoint, lambda done: done - 1)

    batches: list[int] = []
    _fit(tmp_path, _at(hook, save))
    note = LambdaCallback(on_train_batch_start=lambda t, m, batch, i: batches.append(i))
    _fit(tmp_path, Recount(), note, ckpt=path)
    assert batches == [1, 2]


# -- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2}, {"log_every_n_steps": 2}, {"max_epochs": 2}]
)
def test_next_log_line(options: dict[str, Any], tmp_path: Path) -> None:
    logger, expected = Lines(), []

    def expect(trainer: Trainer) -> None:
        line = internals.next_log_line(trainer)
        if line is not None:
            assert line["metrics"].pop("epoch") == trainer.current_epoch
            expected.append((line["step"], line["metrics"]))

    hooks = [_at(hook, expect) for hook in ("on_train_batch_end", "on_train_epoch_end")]
    _fit(tmp_path, *hooks, logger=logger, **options)
    assert logger.lines == expected
    assert logger.lines[-1][1] == pytest.approx({"loss_epoch": (1 + 4 + 9) / 6})


def test_no_next_log_line_elsewhere(tmp_path: Path) -> None:
    lines: list[Any] = []
    start = _at("on_train_batch_start", lambda t: lines.append(internals.next_log_line(t)))
    _fit(tmp_path, start, logger=Lines())
    assert lines == [None] * BATCHES


def test_next_log_step(tmp_path: Path) -> None:
    steps: list[int] = []
    hooks = ("on_train_batch_end", "on_train_epoch_end")
    record = [_at(hook, lambda t: steps.append(internals.next_log_step(t))) for hook in hooks]
    _fit(tmp_path, *record, max_epochs=2)
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6]
    steps.clear()
    _fit(tmp_path, *record, accumulate_grad_batches=2)
    assert steps == [0, 1, 2, 2]


def test_set_log_step(tmp_path: Path) -> None:
    logger = Lines()
    start = _at("on_train_start", lambda t: internals.set_log_step(t, 7))
    _fit(tmp_path, start, logger=logger)
    assert [step for step, _ in logger.lines] == [7, 8, 9, 9]


@pytest.mark.parametrize("forget", [False, True])
def test_forget_step_values(forget: bool, tmp_path: Path) -> None:
    """Lightning repeats a value that only the first step logs; the epoch's mean stays."""

    class Sparse(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if forget:
                internals.forget_step_values(trainer)
            if batch_idx == 0:
                module.log("sparse", 1.0, on_step=True, on_epoch=True, batch_size=1)

    logger = Lines()
    _fit(tmp_path, Sparse(), logger=logger)
    steps = [step for step, values in logger.lines if "sparse_step" in values]
    assert steps == ([0] if forget else [0, 1, 2])
    assert logger.lines[-1][1]["sparse_epoch"] == 1


class Statistics(Callback):
    """Logs an epoch statistic of each reduction in every batch; after the second, adds to each what is given."""

    def __init__(self, added: dict[str, Tensor] | None = None) -> None:
        self.added = added
        self.sums: dict[str, dict[str, Any]] = {}
        self.unlogged: list[bool] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        added = internals.add_to_epoch_sum(trainer, "on_train_batch_end.sum", torch.ones(1))
        self.unlogged.append(not added)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for reduce in ("mean", "sum", "max", "min"):
            module.log(reduce, batch_idx + 1.0, on_step=False, on_epoch=True, reduce_fx=reduce,
                       batch_size=2, logger=reduce != "min")  # fmt: skip
        if batch_idx == 1:
            self.sums = internals.epoch_sums(trainer)
            for reduce, value in (self.added or {}).items():
                size = {"size": torch.tensor([2, 2])} if reduce == "mean" else {}
                assert internals.add_to_epoch_sum(
                    trainer, f"on_train_batch_end.{reduce}", value, **size
                )


def test_epoch_sums(tmp_path: Path) -> None:
    statistics = Statistics()
    _fit(tmp_path, statistics)
    assert statistics.sums.keys() == {
        "training_step.loss",
        *(f"on_train_batch_end.{reduce}" for reduce in ("mean", "sum", "max", "min")),
    }
    loss = statistics.sums["training_step.loss"]
    assert (loss["name"], loss["reduce"]) == ("loss_epoch", "mean")
    assert loss["parts"] == {"value": torch.tensor([1.0 + 2 * 2]), "size": torch.tensor([3])}
    for reduce, value in {"mean": 6.0, "sum": 3.0 + 1, "max": 2.0, "min": 1.0}.items():
        saved = statistics.sums[f"on_train_batch_end.{reduce}"]
        assert saved["name"] == saved["reduce"] == reduce
        assert saved["logger"] is (reduce != "min")
        assert saved["together"] is False
        assert saved["parts"]["value"].tolist() == [value]
        assert ("size" in saved["parts"]) is (reduce == "mean")


def test_epoch_sums_end_with_the_epoch(tmp_path: Path) -> None:
    counts: list[int] = []
    start = _at("on_train_epoch_start", lambda t: counts.append(len(internals.epoch_sums(t))))
    _fit(tmp_path, start, max_epochs=2)
    assert counts == [0, 0]


def test_add_to_epoch_sum(tmp_path: Path) -> None:
    """As if two more processes had logged; in the first batch nothing is logged yet."""
    both = torch.tensor([10.0, -10.0])
    added = {"mean": torch.tensor([20.0, 30.0]), "sum": both, "max": both, "min": both}
    statistics, logger = Statistics(added), Lines()
    trainer = _fit(tmp_path, statistics, logger=logger)
    assert statistics.unlogged == [True, False, False]
    assert trainer.callback_metrics["mean"] == (2 * (1 + 2 + 3) + 20 + 30) / (6 + 4)
    assert trainer.callback_metrics["sum"] == 1 + 2 + 3 + 2  # and 1 in each but the first batch
    assert trainer.callback_metrics["max"] == 10
    assert trainer.callback_metrics["min"] == -10
    assert {k for k in logger.lines[-1][1] if "loss" not in k} == {"mean", "sum", "max"}


def test_nothing_is_added_without_parts(tmp_path: Path) -> None:
    none = torch.zeros(0)
    trainer = _fit(tmp_path, Statistics({"max": none, "sum": none}))
    assert trainer.callback_metrics["max"] == 3
    assert trainer.callback_metrics["sum"] == 1 + 2 + 3 + 2


def test_set_csv_writer(tmp_path: Path) -> None:
    calls: list[tuple[str, Any]] = []
    writer = SimpleNamespace(
        metrics=[],
        log_metrics=lambda metrics, step: calls.append((f"step {step}", metrics)),
        log_hparams=lambda params: calls.append(("hparams", params)),
        save=lambda: calls.append(("save", None)),
    )
    logger = CSVLogger(tmp_path, name="", version="")
    internals.set_csv_writer(logger, lambda: writer)
    internals.set_csv_writer(logger, lambda: pytest.fail("there is one"))
    assert logger.experiment is writer
    logger.log_hyperparams({"lr": 0.1})
    logger.log_metrics({"loss": 1.0}, 3)
    logger.save()
    assert calls == [("hparams", {"lr": 0.1}), ("step 3", {"loss": 1.0}), ("save", None)]
    assert list(tmp_path.iterdir()) == []


# -- checkpoints and signals ------------------------------------------------------------------------------------------


class Every(PublicModelCheckpoint):
    """Writes ``last.ckpt`` after some steps, and notes when."""

    def __init__(self, folder: Path, steps: tuple[int, ...] = (), broken: int = -1) -> None:
        super().__init__(dirpath=folder, save_last=True)
        self.steps, self.broken = steps, broken
        self.calls: list[tuple[str, int]] = []
        self.may: list[bool] = []

    def before_write(self, trainer: Trainer) -> None:
        self.calls.append(("before", trainer.global_step))
        if trainer.global_step == self.broken:
            raise ValueError("broken")

    def after_write(self, trainer: Trainer, path: str) -> None:
        assert self.last_saved_step == trainer.global_step
        self.calls.append(("after", trainer.global_step))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step in self.steps:
            self.may.append(self.may_save(trainer))
            self.write_last(trainer)
            self.may.append(self.may_save(trainer))


def test_checkpoints_at_any_step(tmp_path: Path) -> None:
    every = Every(tmp_path, steps=(1, 2))
    assert every.last_saved_step == 0
    trainer = _fit(tmp_path, every)
    saves = [1, 2, 3, 3]  # the epoch's checkpoint, and its last.ckpt
    assert every.calls == [(when, step) for step in saves for when in ("before", "after")]
    assert every.may == [True, False] * 2
    assert not every.may_save(trainer)
    every.last_saved_step = 0
    assert not every.may_save(SimpleNamespace(fast_dev_run=True))  # type: ignore[arg-type]
    assert {p.name for p in tmp_path.glob("*.ckpt")} == {"last.ckpt", "epoch=0-step=3.ckpt"}


def test_a_step_that_counts_as_saved_is_not_saved(tmp_path: Path) -> None:
    every = Every(tmp_path)
    count = _at("on_train_epoch_end", lambda t: setattr(every, "last_saved_step", t.global_step))
    _fit(tmp_path, count, every)
    assert every.calls == [("before", 3), ("after", 3)]  # at the end, where there is no last.ckpt


@pytest.mark.parametrize("step", [1, 3])
def test_an_error_before_writing_prevents_the_checkpoint(step: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"):
        _fit(tmp_path, Every(tmp_path, steps=(1,), broken=step))
    assert [p.name for p in tmp_path.glob("*.ckpt")] == (["last.ckpt"] if step > 1 else [])


def test_averaged_model(tmp_path: Path) -> None:
    callback, models = WeightAveraging(), []

    def remember(trainer: Trainer, *_: Any) -> None:
        models.append((internals.averaged_model(callback), trainer.lightning_module))

    _fit(tmp_path, callback, LambdaCallback(on_train_epoch_end=remember))
    average, model = models[0]
    assert type(average) is type(model)
    assert average is not model
    assert models[0][1].layer.weight.equal(average.layer.weight)  # taken over at the end


def test_request_termination(tmp_path: Path) -> None:
    """The step that is under way is done first."""
    done: list[int] = []

    def stop(trainer: Trainer) -> None:
        if trainer.global_step == 1:
            internals.request_termination(trainer)
            assert trainer.received_sigterm

    hooks = [
        _at("on_train_batch_start", stop),
        _at("on_train_batch_end", lambda t: done.append(t.global_step)),
    ]
    with pytest.raises(SIGTERMException):
        _fit(tmp_path, *hooks)
    assert done == [1, 2]


# -- several processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def process_group() -> Iterator[None]:
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_replace_sync_batchnorm(tmp_path: Path) -> None:
    calls: list[str] = []

    class Conversion(TorchSyncBatchNorm):
        def apply(self, model: nn.Module) -> nn.Module:
            calls.append("apply")
            return model

        def revert(self, model: nn.Module) -> nn.Module:
            calls.append("revert")
            return model

    class Prepare(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            assert internals.replace_sync_batchnorm(trainer.strategy, Conversion())
            assert not internals.replace_sync_batchnorm(trainer.strategy, Conversion())

    _fit(tmp_path, Prepare(), strategy="ddp", devices=1, sync_batchnorm=True)
    assert calls == ["apply", "revert"]


@pytest.mark.parametrize("strategy", [DDPStrategy(), SingleDeviceStrategy(torch.device("cpu"))])
def test_batch_norm_without_the_option_is_left_alone(strategy: Any) -> None:
    assert not internals.replace_sync_batchnorm(strategy, TorchSyncBatchNorm())
