"""What the benchmarks of the parts share: a ring like a worker's, and who writes to it."""

from __future__ import annotations

import mmap

import pytest

from benchmarks.fakes import observer_of
from sluice.capture.request import TaskObserver
from sluice.ring import Reader, Ring


def empty(ring: Ring) -> None:
    """Take everything out of a ring."""
    reader = Reader(ring)
    while records := reader.read(500, 1 << 20):
        reader.settle(records[-1])


@pytest.fixture
def ring() -> Ring:
    """A ring like a worker's, used once around, so that its pages are there; empty."""
    ring = Ring(mmap.mmap(-1, 8 << 20), ring_id=3)
    for _ in range(20_000):
        ring.append(b"x" * 450)
    empty(ring)
    return ring


@pytest.fixture
def observer(ring: Ring) -> TaskObserver:
    return observer_of(ring)
