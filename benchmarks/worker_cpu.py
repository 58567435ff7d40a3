"""CPU per no-op task of a real worker, with Sluice and without, in every pool.

    python -m benchmarks.worker_cpu [--pools prefork,gevent] [--tasks 200] [--cycles 100]

The workers of all variants run at the same time and take turns: each in its turn finds the
same number of tasks in its queue, all at once, and works while the others wait.  A turn
takes a fraction of a second, so that a machine whose speed drifts is as fast for one as for
the next, and ratios are taken turn by turn.  "without" is there twice: the ratio of two
equal workers (A/A) is what the others have to be read against.  "three appends" is the
floor of any capture (see :mod:`benchmarks.three_appends`), "-E" is what Celery's own events
cost.

CPU time is user + system of MAIN and its children by the kernel's own clock of each
process, over a whole cycle of turns: what a worker does after its turn counts too.  Events
are delivered to a local server in a process of its own, and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.harness import POOLS, Worker, wait_for
from tests.harness.brokers import Broker, Valkey, valkey_space
from tests.harness.folders import ring_folder

VARIANTS = ("without", "without again", "three appends", "sluice", "-E")
BASIC = "tests.harness.apps.basic"
_BODY = "W1tdLCB7fSwgbnVsbF0="  # [[], {}, null]
_SERVER = """
import sys
from sluice.testing import IngestServer
with IngestServer(check=False) as server:
    print(server.url, flush=True)
    sys.stdin.readline()
    jobs = [e["job"] for e in server.events() if "job" in e]
    print(sum(j["state"] == "completed" for j in jobs), flush=True)
"""


class Contender:
    """One worker, its broker space, and what it has used so far."""

    def __init__(self, broker: Broker, worker: Worker) -> None:
        self.broker = broker
        self.worker = worker
        #: Microseconds per task, a figure for each turn.
        self.cost: list[float] = []
        self.given = 0

    def give(self, tasks: int) -> None:
        """Put so many tasks into the queue in one step."""
        messages = [_message() for _ in range(tasks)]
        with self.broker.server.client(self.broker.space) as client:
            client.rpush("celery", *messages)
        self.given += tasks

    def done(self) -> bool:
        """Whether nothing waits, neither with the broker nor reserved."""
        with self.broker.server.client(self.broker.space) as client:
            return not client.llen("celery") and not client.hlen("unacked")

    def cpu(self) -> float:
        """Seconds of CPU that its processes have used."""
        main = psutil.Process(self.worker.pid)
        processes = (main, *main.children(recursive=True))
        return sum(time.clock_gettime(~process.pid << 3 | 2) for process in processes)


def _message() -> str:
    task_id = str(uuid.uuid4())
    headers = {
        "lang": "py",
        "task": "basic.no_result",
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "benchmark",
        "ignore_result": True,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": str(uuid.uuid4()),
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
    }
    return json.dumps(
        {
            "body": _BODY,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )


@contextlib.contextmanager
def contender(server: Valkey, pool: str, variant: str, ingest_url: str) -> Iterator[Contender]:
    """A started worker of one variant."""
    # A folder of its own: nobody delivers what another variant left.
    with valkey_space(server) as broker, ring_folder() as folder:
        worker = Worker(
            broker.url,
            pool=pool,
            ingest_url=ingest_url,
            spool_dir=folder,
            app="benchmarks.three_appends" if variant == "three appends" else BASIC,
            init=variant in ("sluice", "three appends"),
            loglevel="WARNING",
            args=["-E"] if variant == "-E" else [],
            conf={"worker_prefetch_multiplier": 64, "worker_redirect_stdouts": False},
        )
        try:
            yield Contender(broker, worker)
        finally:
            worker.stop()
            worker.kill()


@contextlib.contextmanager
def receiver() -> Iterator[subprocess.Popen[str]]:
    """The ingest endpoint in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def measure(
    server: Valkey, pool: str, variants: list[str], tasks: int, cycles: int
) -> tuple[dict[str, list[float]], float]:
    """Microseconds per task for each variant and turn, and the share of tasks delivered."""
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(receiver())
        assert endpoint.stdin
        assert endpoint.stdout
        url = endpoint.stdout.readline().strip()
        with contextlib.ExitStack() as workers:
            contenders = {
                variant: workers.enter_context(contender(server, pool, variant, url))
                for variant in variants
            }
            for number in range(cycles + 1):
                before = {variant: one.cpu() for variant, one in contenders.items()}
                order = list(contenders.values())
                random.shuffle(order)
                for one in order:
                    one.give(tasks)
                    wait_for(one.done, 120, "the end of a turn")
                for variant, one in contenders.items():
                    if number:  # the first is to warm up
                        one.cost.append((one.cpu() - before[variant]) / tasks * 1e6)
            given = contenders["sluice"].given if "sluice" in contenders else 0
        endpoint.stdin.write("\n")
        endpoint.stdin.flush()
        delivered = int(endpoint.stdout.readline())
    return {v: one.cost for v, one in contenders.items()}, delivered / given if given else 0.0


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median, and its 95 % interval by resampling."""
    medians = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), medians[50], medians[-51]


def report(pool: str, costs: dict[str, list[float]], delivered: float) -> list[str]:
    """Rows of the table: ratios against the "without" of the same cycle."""
    base = costs["without"]
    rows = []
    for variant, mine in costs.items():
        ratio, low, high = interval([cost / b for cost, b in zip(mine, base, strict=True)])
        rows.append(
            f"| {pool} | {variant} | {statistics.median(mine):.0f}"
            f" | {ratio:.3f} ({low:.3f} to {high:.3f})"
            f" | {f'{delivered:.2%}' if variant == 'sluice' else ''} |"
        )
    return rows


def main() -> None:
    """Measure each pool and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", default=",".join(POOLS))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--tasks", type=int, default=200, help="tasks per turn")
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    rows = [
        "| pool | variant | us of CPU per task | ratio: median (95 % interval) | delivered |",
        "|---|---|---|---|---|",
    ]
    figures = {}
    server = Valkey()
    server.start()
    try:
        for pool in options.pools.split(","):
            costs, delivered = measure(
                server, pool, options.variants.split(","), options.tasks, options.cycles
            )
            figures[pool] = costs
            rows += report(pool, costs, delivered)
            print("\n".join(rows[-len(costs) :]), file=sys.stderr, flush=True)
    finally:
        server.stop()
    print("\n".join(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
