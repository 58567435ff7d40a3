"""One worker of one variant, with a broker and a receiver of its own, and what it uses.

Each has its own Valkey server, which counts what each of its clients has sent.  All is read from
outside: nothing is added to the worker, apart from what the workload's app writes into mapped files
where latency is measured.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import psutil

from benchmarks.listening import RECEIVER
from benchmarks.load import QUEUE, Work, message
from benchmarks.peers import WORKLOAD, Peer
from benchmarks.reception import Reception
from benchmarks.stamps import Stamps
from tests.harness.brokers import Valkey
from tests.harness.folders import ring_folder
from tests.harness.processes import Process

#: Celery's own heartbeats are no task's cost, and come at moments of their own.
_ARGUMENTS = ("--without-heartbeat", "-l", "WARNING")
_CONF = {"worker_prefetch_multiplier": 64, "worker_redirect_stdouts": False}
#: Printed by the workload's app when the worker takes tasks.
READY = "BENCH READY"
#: Places for the times of one worker's tasks, and of its ticker.
PLACES, TICKS = 400_000, 2_000_000
#: What our own connection to a broker is called there.
_OURS = "harness"
_LONGEST_START, _LONGEST_TURN, _LONGEST_END = 120.0, 600.0, 30.0
#: Seconds between two looks at whether a turn is over: little beside one, and few looks.
_LOOK = 0.002


class Cpu(NamedTuple):
    """Seconds, user and system."""

    main: float
    children: float

    @property
    def total(self) -> float:
        return self.main + self.children

    def since(self, before: Cpu) -> Cpu:
        """What was used after an earlier look."""
        return Cpu(self.main - before.main, self.children - before.children)

    def times(self, factor: float) -> Cpu:
        """So many times as much."""
        return Cpu(self.main * factor, self.children * factor)

    def less(self, rate: Cpu, seconds: float) -> Cpu:
        """Without what was used at this rate, per second, in so many seconds."""
        return self.since(rate.times(seconds))


class Turn(NamedTuple):
    """What one turn took."""

    #: Seconds from the first message until no task waits: the last has begun, whose message Celery
    #: acknowledges at its start.
    seconds: float
    #: Bytes that the broker received from the worker meanwhile.
    broker_bytes: int


class Footprint(NamedTuple):
    """What a worker holds after its work."""

    #: MiB, the proportional set size: shared pages count by the share of each process.
    main_mib: float
    #: The mean of its children; None without children.
    child_mib: float | None
    #: MiB, the resident set size: shared pages count in full for each.
    main_rss_mib: float
    child_rss_mib: float | None
    main_threads: int
    child_threads: int | None
    sockets: int


class Contender:
    """A running worker, for a ``with`` block.

    `stop()` ends it with TERM and tells how long that took.
    """

    def __init__(
        self,
        peer: Peer,
        python: Path,
        pool: str,
        concurrency: int,
        *,
        latency: bool = False,
        wrap: Sequence[str] = (),
    ) -> None:
        self.peer = peer
        with contextlib.ExitStack() as stack:
            self.broker = Valkey()
            self.broker.start()
            stack.callback(self.broker.stop)
            self.client = stack.enter_context(self.broker.client())
            self.client.client_setname(_OURS)
            self.reception = stack.enter_context(Reception(peer, self.broker.url))
            folder = stack.enter_context(ring_folder())
            extra = {"SLUICE_SPOOL_DIR": str(folder)}  # nobody delivers what another variant left
            if latency:
                self.stamps = Stamps(folder / "stamps", PLACES)
                stack.callback(self.stamps.close)
                self.ticks = Stamps(folder / "ticks", TICKS)
                stack.callback(self.ticks.close)
                extra |= {"BENCH_STAMPS": f"{folder}/stamps", "BENCH_TICKS": f"{folder}/ticks"}
            argv = peer.command(python, pool, concurrency=concurrency, args=_ARGUMENTS)
            env = peer.environment(
                self.broker.url, pool, url=self.reception.url, conf=_CONF, extra=extra
            )
            begun = time.monotonic()
            self.worker = stack.enter_context(
                Process([*wrap, *argv], env=env, cwd=WORKLOAD, name=f"{peer.name} {pool}")
            )
            self.worker.wait_line(READY, _LONGEST_START)
            #: Seconds from the start of the process until it took tasks.
            self.startup = time.monotonic() - begun
            self._stack = stack.pop_all()

    def cpu(self) -> Cpu:
        """CPU that its processes have used so far, by the kernel's clock of each."""
        return Cpu(_used(self.worker.pid), sum(_used(one.pid) for one in self.worker.children()))

    def take_turn(self, work: Work) -> Turn:
        """Put a turn's messages into the queue at once, and wait until the last has been taken."""
        prepared = [message(work.task, work.kwargs) for _ in range(work.tasks)]
        before = self._sent_to_broker()
        begun = time.monotonic()
        for number in range(0, len(prepared), 10_000):
            self.client.rpush(QUEUE, *prepared[number : number + 10_000])
        ended = self.wait_until_done()
        return Turn(ended - begun, self._sent_to_broker() - before)

    def _sent_to_broker(self) -> int:
        clients = self.client.client_list()
        ours = (_OURS, RECEIVER)
        return sum(int(one["tot-net-in"]) for one in clients if one["name"] not in ours)

    def wait_until_done(self) -> float:
        """Until no task waits, neither with the broker nor with the worker; since when that is so.

        At two looks in a row: between the two steps in which kombu takes a message, it is in
        neither place.
        """
        deadline, since = time.monotonic() + _LONGEST_TURN, 0.0
        while True:
            now = time.monotonic()
            if self.client.llen(QUEUE) or self.client.hlen("unacked"):
                since = 0.0
            elif since:
                return since
            else:
                since = now
            if now > deadline:
                raise AssertionError(f"a turn does not end\n{self.worker.output()}")
            time.sleep(_LOOK)

    def footprint(self) -> Footprint:
        """Memory, threads and sockets now."""
        main = psutil.Process(self.worker.pid)
        children = self.worker.children()
        sizes = [one.memory_full_info() for one in (main, *children)]
        pss = [one.pss / 2**20 for one in sizes]
        rss = [one.rss / 2**20 for one in sizes]
        connections = [one for process in (main, *children) for one in process.net_connections()]
        return Footprint(
            main_mib=pss[0],
            child_mib=statistics.mean(pss[1:]) if children else None,
            main_rss_mib=rss[0],
            child_rss_mib=statistics.mean(rss[1:]) if children else None,
            main_threads=main.num_threads(),
            child_threads=max(child.num_threads() for child in children) if children else None,
            sockets=len(connections),
        )

    def stop(self) -> float:
        """Seconds from TERM to the end of the process."""
        return self.worker.stop(timeout=_LONGEST_END).seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let go of everything; a worker that still runs is killed."""
        self._stack.close()


def _used(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)
