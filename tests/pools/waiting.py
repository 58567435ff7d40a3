"""Waiting for what an ingest server was told."""

from collections.abc import Mapping

from sluice.testing import IngestServer
from tests.harness import wait_for
from tests.pools.timeline import Event, Timeline, timelines, what

FAST = {"SLUICE_FLUSH_INTERVAL": "0.2"}
#: Where the API is well and all must be delivered at the end, however busy the machine is.
PATIENT = {"SLUICE_SHUTDOWN_TIMEOUT": "15"}
PLAIN = ("received started succeeded",)
FAILS = ("received started failed",)
RETRIES_ONCE = ("received started retried", "received started succeeded")


def wait_told(
    ingest: IngestServer, lives: Mapping[str, tuple[str, ...]], timeout: float = 30.0
) -> dict[str, Timeline]:
    """Wait until a worker has told as many steps of each task id as its life has."""
    lines: dict[str, Timeline] = {}

    def untold() -> list[str]:
        return [
            task_id
            for task_id, attempts in lives.items()
            if len(lines.get(task_id, Timeline("")).told) < len(" ".join(attempts).split())
        ]

    def enough() -> bool:
        lines.update(timelines(ingest.events()))
        return not untold()

    def missing() -> str:
        return f"{len(lives)} lives; not whole: " + "; ".join(
            f"{task_id} ({', '.join(lives[task_id])}):"
            f" {' '.join(map(what, lines.get(task_id, Timeline('')).events)) or 'nothing'}"
            for task_id in untold()[:10]
        )

    wait_for(enough, timeout, missing)
    return lines


def wait_lives(
    ingest: IngestServer,
    lives: Mapping[str, tuple[str, ...]],
    *,
    sent: bool = False,
    timeout: float = 30.0,
) -> dict[str, Timeline]:
    """Wait for these lives, and see that each is complete and in order.

    `sent` says whether who sent them had Sluice too; a retry is always sent by the worker.
    """
    lines = wait_told(ingest, lives, timeout)
    attempts = sum(map(len, lives.values())) - (0 if sent else len(lives))

    def all_sent() -> bool:
        lines.update(timelines(ingest.events()))
        return sum(len(lines[task_id].sent) for task_id in lives) >= attempts

    wait_for(all_sent, timeout, lambda: f"what was sent of {lives}")
    faults = {
        task_id: found
        for task_id, attempts in lives.items()
        if (found := lines[task_id].faults(attempts, sent=sent))
    }
    assert faults == {}
    return lines


def sent_counts(ingest: IngestServer) -> dict[str, int]:
    """How often each id was told as sent, and never as anything else."""
    lines = timelines(ingest.events())
    assert not any(line.told for line in lines.values())
    return {task_id: len(line.sent) for task_id, line in lines.items()}


def workers(ingest: IngestServer, state: str = "") -> list[Event]:
    """The worker events so far, of one state or of any."""
    return [
        event["worker"]
        for event in ingest.events()
        if "worker" in event and state in ("", event["worker"]["state"])
    ]
