"""What unit tests put in the place of a process: a ring in plain memory, a tape, a fresh Python."""

from __future__ import annotations

import mmap
import subprocess
import sys
import textwrap
from datetime import UTC
from typing import Any, get_args

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sluice.events import Envelope, Event, Job, JobState, Worker, WorkerState
from sluice.notices import Notices
from sluice.recorder import Recorder
from sluice.ring import SMALLEST_RING, Reader, Ring
from tests.harness import CONNECTION_ID, environment
from tests.harness.processes import ROOT

RING_ID = 0x1234_5678_9ABC_DEF0
#: No process has this number: it is above what Linux and macOS give out.
NO_PROCESS = 2**30

#: For laws: a busy machine is no reason to fail.
LAW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
#: Text as it can be written in JSON: everything but half of a surrogate pair.
TEXT_CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(TEXT_CHARACTERS, max_size=60)

_decode = msgspec.json.Decoder(Envelope, strict=True).decode


def memory_ring(size: int = SMALLEST_RING, *, ring_id: int = RING_ID, writer_pid: int = 0) -> Ring:
    """An empty ring that no file and no other process knows of."""
    return Ring(mmap.mmap(-1, size), ring_id=ring_id, writer_pid=writer_pid)


def decoded(payload: bytes) -> Event:
    """One event, decoded as a receiver does it: strictly, with the contract's limits."""
    (event,) = _decode(b'{"events":[%b]}' % payload).events
    return event


#: How a script begins that looks into the client, for `run_python`.
CLIENT_SCRIPT = """
import json, os, signal, sys, threading, time
import celery, sluice
sluice.init(flush_interval=0.05)
app = celery.Celery(broker="memory://")
@app.task
def task(): pass
client = sluice._client
"""


def run_python(
    code: str, *args: str, timeout: float = 60, **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that can import this tree, and expect it to succeed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        env=environment(extra=env),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Tape:
    """A real recorder over a ring in memory; `events` is what it has written so far."""

    def __init__(self, *, environment: str | None = None, size: int = 1024 * 1024) -> None:
        self.notices = Notices()
        self.ring = memory_ring(size)
        self.recorder = Recorder(CONNECTION_ID, environment, self.notices, lambda: None)
        self.recorder.ring = self.ring

    @property
    def payloads(self) -> list[bytes]:
        """The recorded events as JSON."""
        return [record.payload for record in Reader(self.ring).read(10_000, 2**40)]

    @property
    def events(self) -> list[Event]:
        """The recorded events."""
        return [decoded(payload) for payload in self.payloads]

    @property
    def event(self) -> Event:
        """The one recorded event."""
        (event,) = self.events
        return event

    @property
    def jobs(self) -> list[Any]:
        """The jobs of the recorded events."""
        return [event.job for event in self.events]


def _text(least: int, most: int) -> st.SearchStrategy[str]:
    return st.text(TEXT_CHARACTERS, min_size=least, max_size=most)


_id, _time = _text(1, 30), st.datetimes(timezones=st.just(UTC))
_scalar = st.one_of(
    TEXT,
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)
#: As the capture leaves them: never empty.
EXTENSIONS = st.dictionaries(TEXT, _scalar, min_size=1, max_size=5)
COUNTS = st.integers(0, 2**63)
JOBS = st.builds(
    Job,
    external_id=_id,
    name=_id,
    state=st.sampled_from(get_args(JobState)),
    queue=st.none() | _text(0, 30),
    previous_state=st.none() | st.sampled_from(get_args(JobState)),
    worker_id=st.none() | _id,
    attempt=st.none() | st.integers(1, 2**63),
    max_retries=st.none() | COUNTS,
    progress=st.none() | st.floats(0, 1),
    error=st.none() | TEXT,
    stacktrace=st.none() | TEXT,
    created_at=st.none() | _time,
    started_at=st.none() | _time,
    completed_at=st.none() | _time,
    scheduled_for=st.none() | _time,
    parent_id=st.none() | _id,
    root_id=st.none() | _id,
    extensions=EXTENSIONS,
)
WORKERS = st.builds(
    Worker,
    external_id=_id,
    hostname=TEXT,
    pid=COUNTS,
    state=st.sampled_from(get_args(WorkerState)),
    concurrency=st.none() | COUNTS,
    active_jobs=st.none() | COUNTS,
    queues=st.none() | st.lists(TEXT, max_size=3),
    metadata=st.none()
    | st.dictionaries(
        TEXT, _scalar | st.lists(st.floats(allow_nan=False, allow_infinity=False)), max_size=3
    ),
    extensions=EXTENSIONS,
)
