"""CPU per no-op task of a real worker, with Sluice and without, in every pool.

    python -m benchmarks.worker_cpu [--pools prefork,gevent] [--tasks 6000] [--rounds 5]

Tasks wait in the broker before a worker takes the first: what is measured is the CPU time
(user + system, of MAIN and its children, from /proc) from the first to the last, divided
by their number.  The variants take turns within a round, first "without" twice, so that
the difference between two equal workers (A/A) stands beside the difference that matters.
Events are delivered to a local server in a process of its own, and counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tests.harness import POOLS, Worker, client_app, wait_for
from tests.harness.brokers import Broker, Valkey, valkey_space

VARIANTS = ("without", "without again", "sluice", "-E")
_SERVER = """
import sys
from sluice.testing import IngestServer
with IngestServer() as server:
    print(server.url, flush=True)
    sys.stdin.readline()
    jobs = [e["job"] for e in server.events() if "job" in e]
    print(sum(j["state"] == "completed" for j in jobs), flush=True)
"""


@dataclass(frozen=True)
class Run:
    """One worker's life."""

    pool: str
    variant: str
    cpu_us_per_task: float
    delivered: int | None


def measure(broker: Broker, pool: str, variant: str, tasks: int) -> Run:
    """Run one worker over `tasks` no-op tasks."""
    with client_app(broker.url) as app, app.producer_pool.acquire() as producer:
        for _ in range(tasks):
            app.send_task("basic.no_result", producer=producer)
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin
        assert server.stdout
        url = server.stdout.readline().strip()
        worker = Worker(
            broker.url,
            pool=pool,
            ingest_url=url,
            init=variant == "sluice",
            loglevel="WARNING",
            args=["-E"] if variant == "-E" else [],
            conf={"worker_prefetch_multiplier": 64},
        )
        try:
            begun = wait_for(
                lambda: broker.queue_length() < tasks and broker.queue_length(),
                30,
                f"the {pool} worker to begin",
            )
            cpu = _cpu(worker)
            wait_for(lambda: not broker.queue_length() and _idle(worker), 120, "the last task")
            spent = _cpu(worker) - cpu
        finally:
            worker.stop()
            worker.kill()
            server.stdin.write("\n")
            server.stdin.flush()
            delivered = int(server.stdout.readline())
    return Run(pool, variant, spent / begun * 1e6, delivered if variant == "sluice" else None)


_last: dict[int, float] = {}


def _idle(worker: Worker) -> bool:
    """Whether the worker used no CPU to speak of since the last look."""
    now = _cpu(worker)
    idle = now - _last.get(worker.pid, -1.0) < 0.005
    _last[worker.pid] = now
    return idle


def _cpu(worker: Worker) -> float:
    main = psutil.Process(worker.pid)
    return sum(sum(process.cpu_times()[:2]) for process in (main, *main.children(recursive=True)))


def report(runs: list[Run]) -> str:
    """A table of ratios, each against the "without" of the same round."""
    lines = [
        "| pool | variant | us of CPU per task | ratio: median (min to max) | delivered |",
        "|---|---|---|---|---|",
    ]
    for pool in dict.fromkeys(run.pool for run in runs):
        base = [r.cpu_us_per_task for r in runs if (r.pool, r.variant) == (pool, "without")]
        for variant in dict.fromkeys(run.variant for run in runs):
            mine = [r for r in runs if (r.pool, r.variant) == (pool, variant)]
            ratios = [r.cpu_us_per_task / b for r, b in zip(mine, base, strict=True)]
            delivered = {r.delivered for r in mine} - {None}
            lines.append(
                f"| {pool} | {variant} | {statistics.median(r.cpu_us_per_task for r in mine):.0f}"
                f" | {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
                f" | {', '.join(map(str, sorted(d for d in delivered if d is not None)))} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", default=",".join(POOLS))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--tasks", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write the runs to this file")
    options = parser.parse_args()
    runs: list[Run] = []
    server = Valkey()
    server.start()
    try:
        for pool in options.pools.split(","):
            for _ in range(options.rounds):
                for variant in options.variants.split(","):
                    with valkey_space(server) as broker:
                        runs.append(measure(broker, pool, variant, options.tasks))
                        print(runs[-1], file=sys.stderr, flush=True)
    finally:
        server.stop()
    print(report(runs))
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(run) for run in runs], indent=1))


if __name__ == "__main__":
    main()
