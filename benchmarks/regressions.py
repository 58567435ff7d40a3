"""Is the gate one?  Each regression that it is to catch is made on a copy, and must be caught.

    scripts/regressions [NAMES]

First the gate's tests run on an unchanged copy, where they must pass.  Takes some ten minutes on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
#: As pytest ends where tests have failed, and not where there was nothing to run.
_FAILED: Final = 1


class Regression(NamedTuple):
    """`old`, which is in the file once, becomes `new`; then `tests` must fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_ENCODE: Final = "            payload = encode(self._connection_id, at, what)\n"
_WANTED: Final = "        wanted = [record for record in part if record.payload]\n"
_COST: Final = "tests/test_cost.py::test_"
_NO_COST: Final = "tests/pools/test_no_cost.py::test_"
REGRESSIONS: Final = {
    "a capture encodes twice": Regression(
        "sluice/recorder.py",
        _ENCODE,
        2 * _ENCODE,
        (f"{_COST}a_capture_takes_a_few_times_an_encode_and_a_copy",),
    ),
    "a capture keeps what it has written": Regression(
        "sluice/recorder.py",
        _ENCODE,
        _ENCODE + "            self.__dict__.setdefault('kept', []).append(payload)\n",
        (f"{_COST}a_capture_holds_little_memory_and_leaves_none_behind",),
    ),
    "a capture takes sixty microseconds more": Regression(
        "sluice/recorder.py",
        _ENCODE,
        _ENCODE + "            sum(range(4000))\n",
        (f"{_COST}cpu_per_task",),
    ),
    "the sender works for sixty microseconds an event": Regression(
        "sluice/dispatch.py",
        _WANTED,
        _WANTED + "        for _ in wanted:\n            sum(range(4000))\n",
        (f"{_COST}an_event_loop_is_held_up_no_longer",),
    ),
    "a process that never sends imports the sender's modules": Regression(
        "sluice/client.py",
        "        if self._concurrency.is_green or detect.may_be_patched_later():\n",
        "        if True:\n",
        (f"{_COST}a_process_starts_hardly_later",),
    ),
    "events are sent through the broker": Regression(
        "sluice/client.py",
        "        if self.settings.celery_events:\n",
        "        if True:\n",
        (f"{_NO_COST}the_broker_hears_nothing_more",),
    ),
    "code of ours runs in a child": Regression(
        "sluice/capture/worker.py",
        "            (signals.task_received, self._on_received),\n",
        "            (signals.task_received, self._on_received),\n"
        "            (signals.task_prerun, lambda **_: None),\n",
        (f"{_NO_COST}no_code_of_ours_runs_in_a_child_for_a_task_that_sends_none",),
    ),
    "a child has a thread": Regression(
        "sluice/client.py",
        "            ring.writer_pid = self._pid\n",
        "            ring.writer_pid = self._pid\n"
        "            import threading\n"
        "            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n",
        (
            f"{_NO_COST}a_child_has_no_thread_and_no_connection_of_ours",
            f"{_NO_COST}a_child_that_is_forked_later_has_none_either",
        ),
    ),
}


def main() -> int:
    """Try each, say what became of it, and fail where one was not caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=list(REGRESSIONS), metavar="NAME")
    chosen = {name: REGRESSIONS[name] for name in parser.parse_args().names}
    tests = sorted({test for one in chosen.values() for test in one.tests})
    if (code := _run(None, tests)) != 0:
        print(f"without any regression: exit code {code}")
        return 1
    print(f"without any regression: passed ({len(tests)} tests)", flush=True)
    missed = 0
    for name, regression in chosen.items():
        for test in regression.tests:
            caught = _run(regression, [test]) == _FAILED
            missed += not caught
            print(f"{name}: {'caught' if caught else 'MISSED'} by {test}", flush=True)
    return 1 if missed else 0


def _run(regression: Regression | None, tests: list[str]) -> int:
    """The exit code of pytest for these tests, in a copy of what git knows of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        for name in _git_knows():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
        if regression is not None:
            target = copy / regression.file
            text = target.read_text(encoding="utf-8")
            if text.count(regression.old) != 1:
                raise SystemExit(f"{regression.file} has changed: {regression.old!r}")
            target.write_text(text.replace(regression.old, regression.new), encoding="utf-8")
        return subprocess.run(
            [_python_with(copy), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
            cwd=copy,
            stdout=subprocess.DEVNULL,
            check=False,
        ).returncode


def _python_with(copy: Path) -> str:
    """The Python of an environment that has this one's packages, and the copy's `sluice`.

    A variable would not do: the workers of the benchmarks start without those of Python.
    """
    venv.create(copy / ".venv", symlinks=True)
    (packages,) = (copy / ".venv").glob("lib/python*/site-packages")
    paths = f"{copy}\n{sysconfig.get_path('purelib')}\n"
    (packages / "copy.pth").write_text(paths, encoding="utf-8")
    return str(copy / ".venv/bin/python")


def _git_knows() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name]


if __name__ == "__main__":
    sys.exit(main())
