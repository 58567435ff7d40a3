"""Contenders beside each other: turn by turn, or task by task at a pace.

All workers of one comparison run at the same time and take turns, in another order in each cycle:
the others wait while one works.  A turn takes a fraction of a second, so that a machine whose speed
drifts is as fast for one as for the next.

What a worker does while it waits for its turn (sending what it captured, above all) belongs to its
tasks, and what it does whether or not there are tasks (heartbeats, polling) does not: that is
measured while all are idle, is a figure of its own, and is taken off.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contender import Contender, Cpu
from benchmarks.figures import quantile
from benchmarks.load import QUEUE, Work, paced
from benchmarks.peers import Peer
from tests.harness.waiting import wait_for

#: Seconds after which a worker that has no more tasks has sent what it captured.
_SENDING = 2.0
#: Seconds that the tasks of a turn may still run when its last message has been taken, and after
#: which one that has left no stamp never will.
_LAST_TASKS, _LONGEST_TASK = 0.05, 30.0
#: Seconds without an event after which a receiver has all that a worker sent before its end.
_QUIET, _LONGEST_SETTLING = 0.3, 20.0
#: Of latencies and stalls, by the name under which the record has them.
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def compare(
    variants: Mapping[str, tuple[Peer, Path]],
    pool: str,
    work: Work,
    *,
    ingest: str = "up",
    idle: float = 10.0,
) -> dict[str, dict[str, Any]]:
    """CPU, speed, bytes and footprint of each variant, and what it delivered.

    `variants` are the peer and the Python of each, by name; `ingest` is the state of the receiver;
    for `idle` seconds nobody has a task.
    """
    with _started(variants, pool, work, latency=False) as contenders:
        for one in contenders.values():
            one.reception.become(ingest)
        found: dict[str, dict[str, Any]] = {name: defaultdict(list) for name in contenders}
        rest: dict[str, Cpu] = {}
        for number in range(work.cycles + work.warm_up):
            if number == work.warm_up:
                rest = _idle(contenders, idle)
            begun = time.monotonic()
            before = {name: one.cpu() for name, one in contenders.items()}
            turns = {name: contenders[name].take_turn(work) for name in _shuffled(contenders)}
            time.sleep(_LAST_TASKS)
            for name, one in contenders.items():
                if work.warm_up and not number:
                    continue
                tasks = work.tasks * work.becomes
                waited = time.monotonic() - begun - turns[name].seconds
                used = one.cpu().since(before[name]).less(rest[name], waited)
                found[name]["cpu_us"].append(used.total / tasks * 1e6)
                found[name]["main_us"].append(used.main / tasks * 1e6)
                found[name]["task_us"].append(turns[name].seconds / tasks * 1e6)
                found[name]["broker_bytes"].append(turns[name].broker_bytes / tasks)
        given = work.tasks * work.becomes * (work.cycles + work.warm_up)
        for name, one in contenders.items():
            found[name]["idle"] = rest[name].total
            _end(one, found[name], work, given, ingest)
    return found


def _idle(contenders: Mapping[str, Contender], seconds: float) -> dict[str, Cpu]:
    """CPU seconds per second of each while nobody has a task."""
    time.sleep(_SENDING)  # what the turns before have left
    begun, before = time.monotonic(), {name: one.cpu() for name, one in contenders.items()}
    time.sleep(seconds)
    passed = time.monotonic() - begun
    return {
        name: one.cpu().since(before[name]).times(1 / passed) for name, one in contenders.items()
    }


def latencies(
    variants: Mapping[str, tuple[Peer, Path]], pool: str, work: Work, rate: float
) -> dict[str, dict[str, Any]]:
    """How long tasks take at `rate` per second, and how long a green pool's hub is held up.

    In seconds: from the moment at which a task was due to its end, and from its start in the worker
    to its end, both as Celery's own callbacks `before_start` and `after_return` see them.
    """
    with _started(variants, pool, work, latency=True) as contenders:
        found: dict[str, dict[str, Any]] = {name: defaultdict(list) for name in contenders}
        slots = {name: itertools.count() for name in contenders}
        for name in _shuffled(contenders):  # to warm up
            _one_pace(contenders[name], work, rate, slots[name])
        for _ in range(work.cycles):
            for name in _shuffled(contenders):
                measured = _one_pace(contenders[name], work, rate, slots[name])
                for what, values in measured.items():
                    shares = {label: quantile(values, share) for label, share in QUANTILES.items()}
                    found[name][what].append(shares)
        for name, one in contenders.items():
            _end(one, found[name], work, work.tasks * (work.cycles + 1))
    return found


def _one_pace(
    one: Contender, work: Work, rate: float, slots: itertools.count[int]
) -> dict[str, list[float]]:
    ticks = one.ticks.logged()
    due = dict(
        paced(
            work,
            rate,
            itertools.islice(slots, work.tasks),
            lambda data: one.client.rpush(QUEUE, data),
        )
    )
    one.wait_until_done()
    wait_for(
        lambda: all(one.stamps[2 * slot + 1] for slot in due),
        _LONGEST_TASK,
        f"the stamps of all tasks of {one.peer.name}",
    )
    begun = {slot: one.stamps[2 * slot] for slot in due}
    ended = {slot: one.stamps[2 * slot + 1] for slot in due}
    measured = {
        "sent_to_done": [ended[slot] - due[slot] for slot in due],
        "started_to_done": [ended[slot] - begun[slot] for slot in due],
    }
    if stalls := one.ticks.logged_since(ticks):
        measured["stall"] = stalls
    return measured


@contextlib.contextmanager
def _started(
    variants: Mapping[str, tuple[Peer, Path]], pool: str, work: Work, *, latency: bool
) -> Iterator[dict[str, Contender]]:
    """The contenders by name, started one after the other, and closed at the end."""
    with contextlib.ExitStack() as stack:
        started = {
            name: stack.enter_context(
                Contender(*variants[name], pool, work.concurrency, latency=latency)
            )
            for name in _shuffled(variants)
        }
        yield {name: started[name] for name in variants}


def _end(one: Contender, found: dict[str, Any], work: Work, given: int, ingest: str = "up") -> None:
    """What is measured once: at the start, at the end of the load, and at that of the worker.

    None for the end of one that did not end when it was asked to; and what was delivered is only
    known where the API was there.
    """
    found["startup"] = one.startup
    found["footprint"] = one.footprint()._asdict()
    try:
        found["exit"] = one.stop()
    except AssertionError:
        found["exit"] = None
    told = one.reception.settle(_QUIET, _LONGEST_SETTLING) if ingest == "up" else {}
    sent = given // work.becomes * (work.becomes - 1)  # by the tasks themselves, not by us
    found["delivered"] = told | {"given": given, "sent": sent, "tells": list(one.peer.tells)}


def _shuffled(names: Mapping[str, Any]) -> Sequence[str]:
    return random.sample(list(names), len(names))
