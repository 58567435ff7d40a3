"""The gate: what Sluice costs, measured small in every CI run, as ratios to a baseline beside it.

A figure fails here when it is worse than its limit by more than two equals differ by in the
same run.  The limits are what `scripts/bench` found, with room for other machines; the figures
themselves are in docs/benchmarks.md.  What is exactly nothing (bytes on the broker, code and
threads in a prefork child) is held by pools/test_no_cost.py.
"""

import gc
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from benchmarks import hub_stall, startup
from benchmarks.conftest import empty, observer, ring  # noqa: F401  fixtures
from benchmarks.fakes import CONNECTION, started
from benchmarks.figures import interval, ratios
from benchmarks.peers import named
from benchmarks.plan import AGAIN, BASE, NOOP, OURS
from benchmarks.results import band, delivered, ratio, stall_added
from benchmarks.rounds import compare
from sluice.events import encode_job

pytestmark = pytest.mark.alone

#: Times an encode and a copy of the same bytes.
CAPTURE = 4.5
#: Bytes that a capture holds at its height: the event's JSON, and what it is made of.
MEMORY = 1600
#: CPU of a no-op task over that of the same task without Sluice.
CPU = {"solo": 1.22, "prefork": 1.2, "gevent": 1.22}
#: Milliseconds that `import sluice; sluice.init()` adds to a process that has Celery.
START = {"plain": 60, "gevent": 250, "eventlet": 250, "gevent, not patched": 250}
#: Milliseconds that 3,000 events a second add to the stall that 99 of 100 ticks do not exceed.
STALL = 1.5


def test_a_capture_takes_a_few_times_an_encode_and_a_copy(observer, ring):  # noqa: F811
    request = started(observer)
    buffer, job, now = bytearray(4096), request.sluice_job, time.time()

    def encode_and_copy():
        data = encode_job(CONNECTION, now, job)
        buffer[: len(data)] = data

    def capture():
        request.send_event("task-started")

    def microseconds(step):
        begun = time.perf_counter()
        for _ in range(300):
            step()
        return time.perf_counter() - begun

    gc.collect()
    gc.disable()
    try:
        rounds = [
            (microseconds(encode_and_copy), microseconds(capture), microseconds(encode_and_copy))
            for _ in range(150)
        ]
    finally:
        gc.enable()
    base, mine, again = map(list, zip(*rounds, strict=True))
    found, equals = interval(ratios(mine, base)), interval(ratios(again, base))
    print(f"a capture: {found} times an encode and a copy; A/A {equals}")
    assert found.low <= CAPTURE * max(1.0, equals.high)


def test_a_capture_holds_little_memory_and_leaves_none_behind(observer, ring):  # noqa: F811
    request = started(observer)
    for _ in range(1000):
        request.send_event("task-started")
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(10_000):
        request.send_event("task-started")
    assert sys.getallocatedblocks() - before < 20
    tracemalloc.start()
    try:
        request.send_event("task-started")
        tracemalloc.reset_peak()
        held, _ = tracemalloc.get_traced_memory()
        request.send_event("task-started")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"a capture: {peak - held} bytes at its height")
    assert peak - held <= MEMORY
    empty(ring)


@pytest.mark.pool
@pytest.mark.redis
@pytest.mark.parametrize("pool", CPU)
def test_cpu_per_task(pool):
    python = Path(sys.executable)  # its environment has this checkout, and Celery, and no peers
    variants = {name: (named(name), python) for name in (BASE, AGAIN, OURS)}
    measured = compare(variants, pool, NOOP._replace(cycles=12), idle=2)
    found, equals = ratio(measured, OURS), band(measured)
    print(f"CPU per no-op task, {pool}: {found}; A/A {equals}")
    assert found.low <= CPU[pool] * max(1.0, equals.high)
    assert delivered(measured[OURS]) == 1


@pytest.mark.parametrize("library", hub_stall.LIBRARIES)
def test_an_event_loop_is_held_up_no_longer(library):
    measured = hub_stall.measure(library, "up", 3000, 2.0, 2)
    added, apart = stall_added(measured, "p99"), stall_added(measured, "p99", kind="again")
    print(f"hub stall p99, {library}: {added:.2f} ms more than idle; A/A {apart:+.2f} ms")
    assert added <= STALL + abs(apart)


def test_a_process_starts_hardly_later():
    for kind, measured in startup.measure(3).items():
        quickest = min(measured["ms"])
        print(f"import and init, {kind}: {quickest:.0f} ms")
        assert quickest <= START[kind], kind
        assert measured["sender"] == (kind != "plain"), "what never sends does not pay for sending"
