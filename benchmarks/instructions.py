"""Instructions instead of time: callgrind counts them, and the same run gives the same number.

For a solo worker of each variant, instructions per no-op task by all its threads, and for the
capture path alone, per event.  valgrind is 50 times slower than the machine: what happens by the
clock (a heartbeat every 2 s, the sender's turn every second) happens more often for each task than
in a worker at full speed, and makes the number of a worker an upper bound.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.contender import Contender
from benchmarks.load import Work
from benchmarks.peers import Peer
from tests.harness import environment, wait_for

_CAPTURES = """
import mmap, sys
from benchmarks.fakes import observer_of, started
from sluice.ring import Ring
send_event = started(observer_of(Ring(mmap.mmap(-1, 8 << 20), ring_id=3))).send_event
print("READY", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        send_event("task-started")
    print("DONE", flush=True)
"""


def available() -> bool:
    """Whether valgrind is on this machine."""
    return shutil.which("valgrind") is not None


def _wrap(out: Path) -> list[str]:
    return [
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet"),
        *(f"--callgrind-out-file={out}", "--dump-instr=no", "--separate-threads=no"),
    ]


def _count(pid: int, out: Path, work: Callable[[], object]) -> int:
    """Instructions of the process while `work` runs."""
    for switch in ("--instr=on", "--zero"):
        _control(switch, pid)
    known = set(out.parent.glob(f"{out.name}*"))
    work()
    _control("--dump", pid)
    wait_for(
        lambda: set(out.parent.glob(f"{out.name}*")) - known, 60, "callgrind to write its counts"
    )
    new = set(out.parent.glob(f"{out.name}*")) - known
    _control("--instr=off", pid)
    return sum(_total(path) for path in new)


def _control(switch: str, pid: int) -> None:
    subprocess.run(
        ["callgrind_control", switch, str(pid)], check=True, capture_output=True, timeout=120
    )


def _total(path: Path) -> int:
    found = re.search(r"^(?:totals|summary): (\d+)", path.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def of_workers(variants: Mapping[str, tuple[Peer, Path]], work: Work) -> dict[str, float]:
    """Instructions per task of a solo worker of each variant."""
    found = {}
    for name, (peer, python) in variants.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "callgrind"
            with Contender(peer, python, "solo", 1, wrap=_wrap(out)) as one:
                one.take_turn(work)
                count = _count(one.worker.pid, out, lambda: one.take_turn(work))
                found[name] = count / (work.tasks * work.becomes)
    return found


def of_a_capture(events: int = 2000) -> float:
    """Instructions of one capture, from Celery's callback to the ring."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind"
        argv = [*_wrap(out), sys.executable, "-c", _CAPTURES]
        with subprocess.Popen(
            argv, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as script:
            assert script.stdin
            assert script.stdout
            lines = script.stdout

            def capture(number: int) -> None:
                print(number, file=script.stdin, flush=True)
                assert lines.readline() == "DONE\n"

            assert lines.readline() == "READY\n"
            capture(events)
            few = _count(script.pid, out, lambda: capture(events))
            many = _count(script.pid, out, lambda: capture(3 * events))
            script.stdin.close()
            script.wait(60)
    return (many - few) / (2 * events)
