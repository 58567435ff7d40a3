"""How long a green process's event loop is held up while it captures thousands of events a second.

    python -m benchmarks.hub_stall [--rate 3000] [--seconds 10] [--rounds 5]

A greenlet sleeps for a millisecond again and again and writes down by how much it woke late.
Beside it another one has the callbacks of Celery's `Request` called at the given rate, three
events for each task, in kinds of process that take turns: "idle" (the ticker alone), "again" (the
same once more: what two equals differ by), "without" (the same callbacks, nothing hooked) and
"sluice" (captured by Sluice, delivered to a server in the given state).  What the sender's thread
takes of the interpreter is in it, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.figures import quantile
from benchmarks.rounds import QUANTILES
from sluice.testing import Answer, IngestServer
from tests.harness import environment
from tests.harness.folders import ring_folder
from tests.harness.front import Front
from tests.harness.ports import HOST
from tests.harness.processes import ROOT

#: Of the events that are asked for, how many there must be: less was another load.
_ENOUGH = 0.95
LIBRARIES = ("gevent", "eventlet")
KINDS = ("idle", "again", "without", "sluice")
_PROCESS = (sys.executable, "-W", "ignore", "-m", "benchmarks.hub_process")
#: What the API answers; None where no packet comes through to it.
STATES = {"up": Answer(), "50 ms": Answer(delay=0.05), "500": Answer(500), "black hole": None}


def measure(
    library: str, state: str, rate: int, seconds: float, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds, for each kind and quantile one figure per round."""
    found: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in QUANTILES} for kind in KINDS
    }
    for _ in range(rounds):
        for kind in random.sample(KINDS, len(KINDS)):
            late = _run(library, kind, state, rate, seconds)
            for name, share in QUANTILES.items():
                found[kind][name].append(quantile(late, share) * 1e3)
    return found


def _run(library: str, kind: str, state: str, rate: int, seconds: float) -> list[float]:
    with _api(state) as url, ring_folder() as folder:
        done = subprocess.run(
            [*_PROCESS, library, kind, str(rate), str(seconds)],
            env=environment(ingest_url=url, spool_dir=folder),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if kind in ("without", "sluice"):
        wanted = _ENOUGH * rate * seconds
        assert found["events"] >= wanted, f"{found['events']} events and not {wanted:.0f}"
    late: list[float] = found["late"]
    return late


@contextlib.contextmanager
def _api(state: str) -> Iterator[str]:
    """The URL of an ingest API in this state."""
    if (answer := STATES[state]) is None:
        with contextlib.closing(Front(target=9)) as front, front.black_hole():
            yield f"http://{HOST}:{front.port}"
        return
    with IngestServer(check=False) as server:
        server.answer = answer
        yield server.url


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--libraries", default=",".join(LIBRARIES))
    parser.add_argument("--state", default="up", choices=STATES)
    parser.add_argument("--rate", type=int, default=3000, help="events per second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    names = list(QUANTILES)
    print(f"| hub | process | {' | '.join(names)} |")
    print("|---|---|" + "---|" * len(names))
    for library in options.libraries.split(","):
        found = measure(library, options.state, options.rate, options.seconds, options.rounds)
        for kind in KINDS:
            cells = (f"{statistics.median(found[kind][name]):.2f}" for name in names)
            print(f"| {library} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
