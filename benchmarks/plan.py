"""What a run measures: the workloads with their sizes, the pools, the variants, how often."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.load import Work
from benchmarks.peers import PEERS
from tests.harness import POOLS

#: In this order; each is a method of :class:`benchmarks.run.Run`.
#: The short ones first: what cannot be measured here is known early.
STEPS = ("startup", "parts", "instructions", "works", "states", "burst", "latencies", "hub")
#: Of its time, how much a solo worker is given to do: more, and tasks wait for each other.
_SOLO_SHARE = 0.6
#: The baseline, and its equal: what two workers without anything differ by.
BASE, AGAIN, OURS = "nothing", "nothing-again", "sluice"

NOOP = Work("no-op", "bench.noop", {}, tasks=200)
SLEEP = Work("5 ms of sleep", "bench.sleep", {"seconds": 0.005}, tasks=100)
CPU = Work("2 ms of CPU", "bench.cpu", {"seconds": 0.002}, tasks=80)
FAIL = Work("a deep failure", "bench.fail", {"depth": 60}, tasks=60)
FAN_OUT = Work("sends ten", "bench.fan_out", {"tasks": 10}, tasks=15, becomes=11)
BURST = Work("a burst", "bench.noop", {}, tasks=50_000, cycles=1, warm_up=False)
#: Beside whom the states and the second latency are measured.
FEW = (BASE, AGAIN, OURS, "opentelemetry", "sluice-celery")


@dataclass(frozen=True)
class Plan:
    """A run.  `cycles` are turns of each variant in each comparison."""

    name: str
    pools: tuple[str, ...] = POOLS
    variants: tuple[str, ...] = tuple(peer.name for peer in PEERS)
    works: tuple[Work, ...] = (NOOP, SLEEP, CPU, FAIL, FAN_OUT)
    cycles: int = 25
    #: Seconds in which nobody has a task, to know what a worker uses then.
    idle: float = 6.0
    burst: Work = BURST
    burst_pools: tuple[str, ...] = ("prefork", "gevent")
    #: Those of the variants that the states and the second latency are measured for.
    few: tuple[str, ...] = FEW
    #: Tasks per second, tasks in a turn, and turns where latency is measured.
    latency_rate: float = 200.0
    latency_tasks: int = 500
    latency_cycles: int = 8
    #: The first for all variants, the others for a few.
    latency_works: tuple[Work, ...] = (NOOP, SLEEP)
    latency_pools: tuple[str, ...] = POOLS
    #: States of the ingest API besides "up", and the pools in which they are compared.
    states: tuple[str, ...] = ("slow", "errors", "black-hole")
    state_pools: tuple[str, ...] = POOLS
    hub_states: tuple[str, ...] = ("up", "50 ms", "500", "black hole")
    hub_rate: int = 3000
    hub_seconds: float = 8.0
    hub_rounds: int = 4
    startup_rounds: int = 9
    #: What is done, of all there is (:mod:`benchmarks.run`).
    steps: tuple[str, ...] = STEPS

    def rate(self, pool: str, work: Work) -> float:
        """Tasks per second where latency is measured: a solo worker does one at a time."""
        seconds: float = work.kwargs.get("seconds", 0.0)
        if pool != "solo" or not seconds:
            return self.latency_rate
        return min(self.latency_rate, _SOLO_SHARE / seconds)


FULL = Plan("full")
QUICK = replace(
    FULL,
    name="quick",
    variants=(BASE, AGAIN, OURS, "celery-events"),
    works=(NOOP,),
    cycles=8,
    idle=4.0,
    latency_tasks=200,
    latency_cycles=3,
    latency_works=(NOOP,),
    latency_pools=("prefork", "gevent"),
    hub_states=("up",),
    hub_seconds=2.0,
    hub_rounds=2,
    startup_rounds=3,
    steps=("works", "latencies", "hub", "startup"),
)
#: Everything, and so little of it that the figures say nothing: does it run to its end?
SMOKE = replace(
    FULL,
    name="smoke",
    cycles=2,
    idle=1.0,
    burst=BURST._replace(tasks=2000),
    latency_tasks=60,
    latency_cycles=1,
    hub_seconds=1.0,
    hub_rounds=1,
    startup_rounds=1,
)
