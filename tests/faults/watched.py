"""The sample app, whose workers can be asked through Celery's control for what Sluice counts.

And be told to capture many events in MAIN, as if that many tasks had come.
"""

import dataclasses
import resource
from pathlib import Path
from typing import Any

from celery.worker.control import inspect_command

import sluice
from sluice.events import Job
from tests.harness.apps.basic import app as app  # noqa: PLC0414


def capture(number: int) -> None:
    """Capture so many events of 600 bytes or so, here."""
    record = sluice._client.recorder.job
    for i in range(number):
        record(
            1e9 + i,
            Job(
                external_id=str(i),
                name="a.task",
                state="queued",
                error="x" * 300,
                extensions={"celeryEvent": "task-sent"},
            ),
        )


def resident() -> int:
    """The bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@inspect_command(args=[("number", int)])
def sluice_capture(_state: Any, number: int) -> int:
    """Capture so many events in MAIN, and say how many bytes of it are in memory after that."""
    capture(number)
    return resident()


@inspect_command()
def sluice_stats(_state: Any) -> dict[str, Any]:
    """`sluice.stats()`, and whether they add up."""
    stats = sluice.stats()
    adds_up = stats.captured == stats.delivered + stats.dropped + stats.pending
    return {**dataclasses.asdict(stats), "adds_up": adds_up}
