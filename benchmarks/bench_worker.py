"""A real worker, from a task's message in the queue to the task's end, with Sluice and without.

For a look by hand, with all that pytest-benchmark has (`--benchmark-compare`, `--benchmark-json`).
Each case is measured by itself, one after the other: for a ratio to rely on there is
`scripts/bench`, whose workers take turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contender import PLACES, Contender
from benchmarks.load import QUEUE, message
from benchmarks.peers import named
from benchmarks.plan import BASE, NOOP, OURS
from tests.harness import POOLS

pytestmark = [pytest.mark.pool, pytest.mark.redis]
_ROUNDS, _WARM_UP = 20, 3
#: A task takes a millisecond, and a look at the mapped file some microseconds.
_TASKS, _LOOK = 300, 0.00005


@pytest.fixture(params=(BASE, OURS))
def worker(request: pytest.FixtureRequest, pool: str) -> Iterator[Contender]:
    """A worker in this environment, which has the checkout."""
    with Contender(named(request.param), Path(sys.executable), pool, 2, latency=True) as one:
        yield one


@pytest.mark.parametrize("pool", POOLS)
def test_one_task(benchmark: Any, pool: str, worker: Contender) -> None:
    """From the queue to its `after_return`, one at a time."""
    benchmark.group = f"one task, {pool}"
    slots = iter(range(PLACES // 2))

    def one_task() -> None:
        slot = next(slots)
        worker.client.rpush(QUEUE, message(NOOP.task, {"slot": slot}))
        while not worker.stamps[2 * slot + 1]:
            time.sleep(_LOOK)

    benchmark.pedantic(one_task, rounds=_TASKS, warmup_rounds=_TASKS // 10)


@pytest.mark.parametrize("pool", POOLS)
def test_200_tasks(benchmark: Any, pool: str, worker: Contender) -> None:
    """All in the queue at once, until the last has begun."""
    benchmark.group = f"200 tasks, {pool}"
    benchmark.pedantic(partial(worker.take_turn, NOOP), rounds=_ROUNDS, warmup_rounds=_WARM_UP)
