"""What the sender's thread does with events: read, join, post, settle."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest

from benchmarks.conftest import empty
from benchmarks.fakes import CONNECTION, started
from benchmarks.peers import named
from benchmarks.reception import Reception
from sluice import batch, native
from sluice.capture.request import TaskObserver
from sluice.config import Secret, Settings
from sluice.detect import detect
from sluice.dispatch import Deliver
from sluice.events import encode_job
from sluice.http import Deliverer, Patience, Verdict
from sluice.ring import Record, Ring
from sluice.sender import MOST_EVENTS, Sender

#: Events of one round, and bytes of the ring that holds them.
EVENTS, ROOM = 50_000, 64 << 20


@pytest.fixture
def payload(observer: TaskObserver) -> bytes:
    return encode_job(CONNECTION, time.time(), started(observer).sluice_job)


@pytest.fixture
def large_ring(payload: bytes) -> Ring:
    return Ring(mmap.mmap(-1, ROOM), ring_id=5)


@pytest.fixture
def fill(large_ring: Ring, payload: bytes) -> Callable[[], None]:
    def fill() -> None:
        for _ in range(EVENTS):
            large_ring.append(payload)

    return fill


@pytest.fixture
def deliver() -> Iterator[Deliver]:
    """Post to a server that answers at once, in a process of its own."""
    with Reception(named("sluice")) as receiver:
        settings = Settings(
            api_key=Secret("sk_bench"), connection_id=CONNECTION, api_url=f"{receiver.url}/api"
        )
        deliverer = Deliverer(
            settings,
            native.load(detect()),
            pause=time.sleep,
            time_left=lambda: inf,
            on_trouble=lambda outcome: pytest.fail(outcome.reason),
        )
        yield deliverer.deliver
        deliverer.close()


@pytest.mark.benchmark(group="a batch of 500")
def test_join(benchmark: Any, payload: bytes) -> None:
    """The body of a request out of its records."""
    records = [Record(payload, seq, 0, relayed=False) for seq in range(MOST_EVENTS)]
    benchmark(batch.body, records, 5)


@pytest.mark.benchmark(group="a batch of 500")
def test_post(benchmark: Any, deliver: Deliver, payload: bytes) -> None:
    """One request, with the answer read."""
    body = batch.body([Record(payload, seq, 0, relayed=False) for seq in range(MOST_EVENTS)], 5)
    assert benchmark(deliver, body, Patience(1, inf)).verdict is Verdict.DELIVERED


@pytest.mark.benchmark(group="an event of 50,000")
def test_drain(benchmark: Any, large_ring: Ring, fill: Callable[[], None]) -> None:
    """Read, checked and settled; nothing is sent."""
    benchmark.extra_info["times"] = EVENTS
    benchmark.pedantic(empty, args=(large_ring,), setup=fill, rounds=10)


@pytest.mark.benchmark(group="an event of 50,000")
def test_drain_join_and_post(
    benchmark: Any, large_ring: Ring, fill: Callable[[], None], deliver: Deliver
) -> None:
    """All that one sender does, as fast as it can: the goal is half a second."""
    sender = Sender(
        large_ring,
        deliver=deliver,
        wait=lambda seconds: False,
        clock=time.monotonic,
        interval=1.0,
        chores=lambda: None,
        dropped_elsewhere=lambda: 0,
        on_error=lambda error: pytest.fail(repr(error)),
        on_odd=lambda outcome: pytest.fail(outcome.reason),
    )
    benchmark.extra_info["times"] = EVENTS
    benchmark.pedantic(sender.turn, setup=fill, rounds=10)
    assert sender.account.delivered == large_ring.captured
    assert sender.dropped == 0
