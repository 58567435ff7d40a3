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

#: Seconds after which a worker that has no more tasks has sent what it captured.
_SENDING = 2.0
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
            _end(one, found[name], given)
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
            _end(one, found[name], work.tasks * (work.cycles + 1))
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
    begun = {slot: one.stamps[2 * slot] for slot in due}
    ended = {slot: one.stamps[2 * slot + 1] for slot in due}
    missing = [slot for slot in due if not (begun[slot] and ended[slot])]
    assert not missing, f"{len(missing)} tasks of {one.peer.name} have left no stamp"
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


def _end(one: Contender, found: dict[str, Any], given: int) -> None:
    """What is measured once: at the start, at the end of the load, and at that of the worker."""
    found["startup"] = one.startup
    found["footprint"] = one.footprint()._asdict()
    one.reception.become("up")
    found["exit"] = one.stop()
    found["delivered"] = one.reception.settle(_QUIET, _LONGEST_SETTLING) | {"given": given}


def _shuffled(names: Mapping[str, Any]) -> Sequence[str]:
    return random.sample(list(names), len(names))
