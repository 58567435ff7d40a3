"""A real worker, from a task's message in the queue to its end, with Sluice and without.

For a look by hand, with all that pytest-benchmark has (`--benchmark-compare`, `--benchmark-json`).
Each case is measured by itself, one after the other: for a ratio to rely on there is
`scripts/bench`, whose workers take turns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contender import Contender
from benchmarks.load import QUEUE, message
from benchmarks.peers import named
from benchmarks.plan import BASE, NOOP, OURS
from tests.harness import POOLS

pytestmark = [pytest.mark.pool, pytest.mark.redis]
_ROUNDS, _WARM_UP = 20, 3


@pytest.fixture(params=(BASE, OURS))
def worker(request: pytest.FixtureRequest, pool: str) -> Iterator[Contender]:
    """A worker in this environment, which has the checkout."""
    with Contender(named(request.param), Path(sys.executable), pool, 2) as one:
        yield one


@pytest.mark.parametrize("pool", POOLS)
def test_one_task(benchmark: Any, pool: str, worker: Contender) -> None:
    """From the queue to the acknowledgement, one at a time."""
    benchmark.group = f"one task, {pool}"

    def one_task() -> None:
        worker.client.rpush(QUEUE, message(NOOP.task, {}))
        worker.wait_until_done()

    benchmark.pedantic(one_task, rounds=_ROUNDS, warmup_rounds=_WARM_UP)


@pytest.mark.parametrize("pool", POOLS)
def test_200_tasks(benchmark: Any, pool: str, worker: Contender) -> None:
    """All in the queue at once."""
    benchmark.group = f"200 tasks, {pool}"
    benchmark.pedantic(partial(worker.take_turn, NOOP), rounds=_ROUNDS, warmup_rounds=_WARM_UP)
