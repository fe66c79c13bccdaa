"""Retrieval and kNN read as many values from the device for many chunks of queries as for one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ppssl.metrics.knn import knn_neighbours
from ppssl.metrics.retrieval import per_query_retrieval

HOST_READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")


class Reads(TorchDispatchMode):
    """Counts the operators for which the host waits, and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        mask = name == "index" and any(i.dtype == torch.bool for i in args[1] if i is not None)
        self.counts["read" if mask or name in HOST_READS else name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "run",
    [
        lambda x, y, n: per_query_retrieval(x, y, chunk_size=n),
        lambda x, y, n: knn_neighbours(x, y, x, k=3, chunk_size=n),
    ],
    ids=["retrieval", "kNN"],
)
def test_reads_do_not_grow_with_the_chunks(run: Callable[..., Any]) -> None:
    x, y = torch.randn(40, 6), torch.arange(40) % 7
    counts = []
    for chunk_size in (40, 5):
        with Reads() as reads:
            run(x, y, chunk_size)
        counts.append(reads.counts)
    assert (counts[0]["mm"], counts[1]["mm"]) == (1, 8)
    assert counts[0]["read"] == counts[1]["read"] < 8
