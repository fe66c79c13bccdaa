from functools import partial

import cv2
import pytest
import torch

from ppssl.studies.timing import median_ratios, single_thread, spread, time_rounds


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    times = {"plain": [1.0, 1.0, 3.0], "full": [1.5, 4.5, 4.5]}
    assert median_ratios(times, "plain") == {"full/plain": 1.5}  # the ratio of the medians is 4.5


def test_tasks_run_in_turns_and_the_warm_up_does_not_count() -> None:
    calls: list[str] = []

    def task(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    values = time_rounds({name: partial(task, name) for name in "abc"}, repeats=2)
    assert "".join(calls) == "abcbcacab"
    assert values == {"a": [6.0, 8.0], "b": [4.0, 9.0], "c": [5.0, 7.0]}
    assert spread(values)["b"] == {"median": 6.5, "min": 4.0, "max": 9.0}


def test_one_thread_and_those_of_before_also_after_an_error() -> None:
    cv2.setNumThreads(2)
    threads = torch.get_num_threads()
    with single_thread():
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (threads, 2)
    with pytest.raises(ZeroDivisionError), single_thread():
        1 / 0  # noqa: B018
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (threads, 2)
