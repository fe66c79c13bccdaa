"""Throughput: how many images a second, and how much of the time is spent waiting for them."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ppssl.callbacks import throughput
from ppssl.callbacks.throughput import Throughput
from save_at import SaveAt


class Clock:
    """Time that passes only where something sleeps, however busy the machine is."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


CLOCK = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr(throughput, "time", CLOCK)


class Loader:
    """Batches of four, each of which takes ``delay`` seconds to come."""

    def __init__(self, batches=4, delay=0.0):
        self.batches, self.delay = batches, delay

    def __len__(self):
        return self.batches

    def __iter__(self):
        for i in range(self.batches):
            CLOCK.sleep(self.delay)
            yield {"index": torch.arange(4) + 4 * i}


class Sleeper(LightningModule):
    """Takes ``step`` seconds a training batch, ``check`` seconds a validation batch."""

    def __init__(self, step=0.0, check=0.0):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.step, self.check = step, check

    def training_step(self, batch, batch_idx):
        CLOCK.sleep(self.step)
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        CLOCK.sleep(self.check)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Record(Callback):
    """The logged values of each epoch."""

    def __init__(self):
        self.values = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.values.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def _fit(loader, model, *, epochs=1, validation=None, resume=None, callbacks=(), **kwargs):
    record = Record()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Throughput(), record, *callbacks],
        **kwargs,
    )
    trainer.fit(model, loader, validation, ckpt_path=resume)
    return record.values


def _measured(rate, wait):
    """Approximately: the values are logged in single precision."""
    values = {"train/images_per_second": rate, "train/data_wait": wait}
    return pytest.approx(values, rel=1e-5, abs=1e-6)


def test_a_slow_step_is_no_wait_for_data():
    (values,) = _fit(Loader(), Sleeper(step=0.05))
    assert values == _measured(80, 0)  # four images in 0.05 s


def test_a_slow_loader_is_waited_for():
    (values,) = _fit(Loader(delay=0.05), Sleeper())
    assert values == _measured(80, 1)


def test_time_is_shared_between_both():
    (values,) = _fit(Loader(delay=0.05), Sleeper(step=0.15))
    assert values == _measured(20, 0.25)


def test_each_epoch_is_measured_on_its_own():
    """The second epoch is the slow one; what the first one did must not be averaged in."""

    class Slowing(Sleeper):
        def on_train_epoch_start(self):
            self.step = 0.1 * (1 + self.current_epoch)

    assert _fit(Loader(), Slowing(), epochs=2) == [_measured(40, 0), _measured(20, 0)]


@pytest.mark.parametrize("interval", [1, 1.0])  # after every batch, and after the epoch
def test_validation_is_neither_training_nor_waiting(interval):
    (values,) = _fit(
        Loader(), Sleeper(step=0.04, check=0.1), validation=Loader(2), val_check_interval=interval
    )
    assert values == _measured(100, 0)


def test_a_run_resumed_in_mid_epoch_starts_its_clock(tmp_path):
    """Lightning then starts no epoch."""
    path = tmp_path / "a.ckpt"
    _fit(Loader(), Sleeper(step=0.05), callbacks=[SaveAt(2, path)])
    CLOCK.sleep(1000)
    (values,) = _fit(Loader(), Sleeper(step=0.05), resume=path)
    assert values == _measured(80, 0)


def test_batches_that_do_not_number_their_images(recwarn):
    (values,) = _fit([torch.zeros(2), torch.zeros(2)], Sleeper(step=0.05))
    assert set(values) == {"train/data_wait"}
    (line,) = [str(w.message) for w in recwarn if "the training goes on" in str(w.message)]
    assert line.startswith("Throughput leaves out images per second")
