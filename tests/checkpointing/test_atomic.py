"""Which checkpoint a run goes on from: the highest step that can be read."""

import os
from fractions import Fraction

import pytest
import torch

from ppssl.checkpointing.atomic import newest_checkpoint, remove_unfinished


def _save(path, step, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": step, "state_dict": {"w": torch.arange(2000.0)}, **more}, path)
    return path


def test_the_highest_step_wins_wherever_it_lies_and_whenever_it_was_written(tmp_path):
    best = _save(tmp_path / "version_0" / "checkpoints" / "a.ckpt", 120)
    _save(tmp_path / "version_1" / "last.ckpt", 99)
    _save(tmp_path / "z.ckpt", 9)
    os.utime(best, (1, 1))
    assert newest_checkpoint(tmp_path) == best


@pytest.mark.parametrize("late", ["a.ckpt", "b.ckpt"])
def test_of_equal_steps_the_last_written_wins(tmp_path, late):
    for name in ("a.ckpt", "b.ckpt"):
        os.utime(_save(tmp_path / name, 5), (100, 200 if name == late else 100))
    assert newest_checkpoint(tmp_path) == tmp_path / late


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_file_is_passed_over(tmp_path, share):
    good = _save(tmp_path / "good.ckpt", 10)
    torn = _save(tmp_path / "torn.ckpt", 20)
    assert newest_checkpoint(tmp_path) == torn  # it would win if it were whole
    content = torn.read_bytes()
    torn.write_bytes(content[: int(share * len(content))])
    assert newest_checkpoint(tmp_path) == good


def test_what_cannot_be_read_safely_or_is_no_checkpoint_is_passed_over(tmp_path):
    good = _save(tmp_path / "good.ckpt", 1)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "folder.ckpt").mkdir()
    torch.save({"weights": torch.ones(2)}, tmp_path / "weights.ckpt")
    # A class that only unsafe loading would import.
    _save(tmp_path / "pickled.ckpt", 99, hyper=Fraction(1, 2))
    torch.save([1, 2], tmp_path / "list.ckpt")
    _save(tmp_path / "other.pt", 99)
    assert newest_checkpoint(tmp_path) == good


def test_a_damaged_file_of_full_length_is_passed_over_with_a_warning(tmp_path):
    good = _save(tmp_path / "good.ckpt", 10)
    damaged = _save(tmp_path / "damaged.ckpt", 20)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.warns(UserWarning, match="Passed over, torn or damaged: .*damaged.ckpt"):
        assert newest_checkpoint(tmp_path) == good


def test_what_was_written_in_mid_step_is_passed_over(tmp_path):
    good = _save(tmp_path / "good.ckpt", 10, resume={"mid_step": False})
    _save(tmp_path / "signal.ckpt", 11, resume={"mid_step": True})
    assert newest_checkpoint(tmp_path) == good


def test_what_is_half_written_is_removed_where_a_run_goes_on(tmp_path):
    for name in ("last.ckpt", "last.ckpt.part", "notes.part", "other/last.ckpt.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert left == {"last.ckpt", "notes.part", "other/last.ckpt.part"}  # of another run


def test_nothing_to_go_on_from(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
    (tmp_path / "torn.ckpt").write_bytes(b"PK")
    assert newest_checkpoint(tmp_path) is None
