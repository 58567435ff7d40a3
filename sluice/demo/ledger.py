"""All the tasks that were sent beside all that was heard of them, and both in numbers.

Events are matched by task id; one that is delivered twice (same ``eventId``) counts once.
Requests are counted for the process whose connection they came on.  Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sluice.demo.timeline import Expectation, Moment, Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The process that sends the tasks, where pools are named.
SENDER: Final = "sender"
_HEARTBEATS: Final = frozenset(("busy", "idle"))
_NODE_PREFIX: Final = "demo-"


def node_name(pool: str) -> str:
    """The first half of the node name of a pool's worker."""
    return _NODE_PREFIX + pool


def pool_of(node: str) -> str | None:
    """The pool of a worker by its node name; None where it is none of the demo's."""
    name, _, _ = node.partition("@")
    return name.removeprefix(_NODE_PREFIX) if name.startswith(_NODE_PREFIX) else None


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 95th percentile, in seconds."""

    p50: float
    p95: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """The spread of `values` (nearest rank); None where there are none."""
        ordered = sorted(values)
        if not ordered:
            return None
        return cls(*(ordered[math.ceil(len(ordered) * share) - 1] for share in (0.5, 0.95)))


@dataclass(frozen=True, slots=True)
class PoolStats:
    """One pool in numbers, or the sender: then there are only events and requests."""

    pool: str
    tasks: int
    complete: int
    states: Mapping[str, int]
    retries: int
    wait: Spread | None
    run: Spread | None
    events: int
    requests: int


@dataclass(slots=True)
class _Traffic:
    """What came over one connection, which belongs to one process."""

    source: str = SENDER
    requests: int = 0
    events: int = 0


class Ledger:
    """All tasks that were sent, beside all that was heard of them."""

    def __init__(self) -> None:
        self._expected: dict[str, Expectation] = {}
        self._timelines: dict[str, Timeline] = {}
        self._changed: set[str] = set()
        self._faults: dict[str, list[str]] = {}
        self._workers: dict[str, list[str]] = {}
        self._traffic: dict[int, _Traffic] = {}
        self._event_ids: set[str] = set()

    def __repr__(self) -> str:
        return f"<Ledger {len(self._expected)} expected, {len(self._timelines)} heard of>"

    @property
    def expected(self) -> int:
        """How many tasks were sent."""
        return len(self._expected)

    @property
    def complete(self) -> int:
        """How many of them have a complete timeline."""
        return self.expected - len(self.faults())

    def expect(self, expectation: Expectation) -> None:
        """A task was sent.  Its events may have arrived before."""
        self._expected[expectation.task_id] = expectation
        self._changed.add(expectation.task_id)

    def add_request(self, connection: int, events: Iterable[Mapping[str, Any]]) -> None:
        """The events of one request that came on a connection."""
        traffic = self._traffic.setdefault(connection, _Traffic())
        traffic.requests += 1
        for event in events:
            traffic.events += 1
            job, worker = event.get("job"), event.get("worker")
            subject: Mapping[str, Any] = job or worker or {}
            node = subject.get("workerId") if job else subject.get("externalId")
            if node is not None and (pool := pool_of(node)):
                traffic.source = pool
            event_id = subject.get("extensions", {}).get("eventId")
            if event_id is not None:
                if event_id in self._event_ids:
                    continue
                self._event_ids.add(event_id)
            if job:
                self._add_job(event)
            elif worker:
                self._workers.setdefault(worker["externalId"], []).append(worker["state"])

    def faults(self) -> dict[str, list[str]]:
        """Task id -> what is missing or wrong, for tasks whose timeline is not complete."""
        for task_id in self._changed & self._expected.keys():
            timeline = self._timelines.get(task_id) or Timeline("")
            self._faults[task_id] = timeline.faults(self._expected[task_id])
        self._changed -= self._expected.keys()
        return {task_id: faults for task_id, faults in self._faults.items() if faults}

    def strangers(self) -> list[str]:
        """Ids of tasks that were heard of and that nobody sent."""
        return [task_id for task_id in self._timelines if task_id not in self._expected]

    def worker_faults(self, pool: str) -> list[str]:
        """What is missing in the life of a pool's worker, once it has ended."""
        states = self.worker_states(pool)
        return [
            *(() if "online" in states else ("no online",)),
            *(() if set(states) & _HEARTBEATS else ("no heartbeat",)),
            *(() if states and states[-1] == "offline" else ("no offline at the end",)),
        ]

    def worker_states(self, pool: str) -> list[str]:
        """The states of a pool's worker, in order of arrival."""
        return [
            state
            for node, states in self._workers.items()
            if pool_of(node) == pool
            for state in states
        ]

    def timeline(self, task_id: str) -> Timeline | None:
        """What was heard of a task; None where nothing was."""
        return self._timelines.get(task_id)

    def expectations(self) -> list[Expectation]:
        """All tasks that were sent, in order of sending."""
        return list(self._expected.values())

    def stats(self, pool: str) -> PoolStats:
        """One pool, or `SENDER`, in numbers."""
        faulty = self.faults()
        tasks = [one for one in self._expected.values() if one.pool == pool]
        lines = [self._timelines.get(one.task_id) or Timeline(one.name) for one in tasks]
        traffic = [one for one in self._traffic.values() if one.source == pool]
        return PoolStats(
            pool=pool,
            tasks=len(tasks),
            complete=sum(one.task_id not in faulty for one in tasks),
            states=Counter(line.state for line in lines),
            retries=sum(moment.state == "retrying" for line in lines for moment in line.moments),
            wait=Spread.of(wait for line in lines for wait in line.waits()),
            run=Spread.of(run for line in lines for run in line.runs()),
            events=sum(one.events for one in traffic),
            requests=sum(one.requests for one in traffic),
        )

    def _add_job(self, event: Mapping[str, Any]) -> None:
        moment = Moment.of(event)
        if moment is not None:
            job = event["job"]
            timeline = self._timelines.setdefault(job["externalId"], Timeline(job["name"]))
            timeline.moments.append(moment)
            self._changed.add(job["externalId"])
