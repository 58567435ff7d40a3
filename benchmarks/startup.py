"""What `import sluice; sluice.init()` adds to a process that already has Celery.

    python -m benchmarks.startup [--rounds 15]

Each round starts a process of its own per kind (plain, gevent, eventlet), takes the time
around the two statements, and prints the median and the range of all rounds, in ms.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

CODE = """
import sys, time, warnings
warnings.simplefilter("ignore")
{patch}
import celery.worker.request, celery.worker.worker, celery.app.amqp, kombu.connection
from celery import Celery
app = Celery(broker="memory://")
before = set(sys.modules)
begun = time.perf_counter()
import sluice
sluice.init(api_key="sk_x", connection_id="6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11")
print((time.perf_counter() - begun) * 1000)
print(sum(name in sys.modules for name in ("requests", "urllib3", "tenacity")))
"""
PATCHES = {
    "plain": "",
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {kind: [] for kind in PATCHES}
    imported: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as cache:
        environ = os.environ | {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        measure(rounds, environ, times, imported)
    print("| process | ms: median (min to max) | of requests, urllib3, tenacity imported |")
    print("|---|---|---|")
    for kind, values in times.items():
        print(
            f"| {kind} | {statistics.median(values):.0f}"
            f" ({min(values):.0f} to {max(values):.0f}) | {imported[kind]} |"
        )


def measure(
    rounds: int,
    environ: dict[str, str],
    times: dict[str, list[float]],
    imported: dict[str, int],
) -> None:
    """Start the processes, one kind after the other in each round."""
    for round_number in range(rounds + 1):
        for kind, patch in PATCHES.items():
            code = CODE.format(patch=patch)
            output = subprocess.run(
                [sys.executable, "-c", code],
                env=environ,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
            if round_number == 0:
                continue  # it compiled the modules, which an installed package has done
            times[kind].append(float(output[0]))
            imported[kind] = int(output[1])


if __name__ == "__main__":
    main()
