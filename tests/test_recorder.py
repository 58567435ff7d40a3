"""Capture -> ring: events become records, and nothing that happens on the way is raised."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.batch import body
from sluice.events import Job, Worker, moment
from sluice.notices import Notices
from sluice.recorder import Recorder
from sluice.ring import Reader
from tests.doubles import JOBS, LAW, RING_ID, Tape, memory_ring
from tests.harness import CONNECTION_ID


class CountingBell:
    """Counts how often it was rung."""

    def __init__(self):
        self.rung = 0

    def ring(self):
        self.rung += 1


def job(**fields: Any) -> Job:
    needed = {"external_id": "i", "name": "n", "state": "queued", "extensions": {"a": 1}}
    return Job(**needed | fields)


def test_a_job_is_written_down_with_its_time():
    tape = Tape()
    tape.recorder.job(12.5, job())
    event = tape.event
    assert (event.type, event.framework) == ("job_state_change", "celery")
    assert event.connection_id == CONNECTION_ID
    assert event.timestamp == moment(12.5)
    assert event.job == job()


def test_a_worker_is_written_down_with_its_time():
    tape = Tape()
    worker = Worker(external_id="w@h", hostname="h", pid=7, state="online", extensions={"a": 1})
    tape.recorder.worker(12.5, worker)
    assert tape.event.type == "worker_state_change"
    assert tape.event.timestamp == moment(12.5)
    assert tape.event.worker == worker


def test_events_keep_their_order():
    tape = Tape()
    for n in range(20):
        tape.recorder.job(20.0 - n, job(external_id=str(n)))
    assert [one.external_id for one in tape.jobs] == [str(n) for n in range(20)]


def test_a_job_can_be_changed_after_it_was_recorded():
    tape = Tape()
    one = job()
    tape.recorder.job(1.0, one)
    one.state, one.extensions = "active", {"b": 2}
    tape.recorder.job(2.0, one)
    assert [(j.state, j.extensions) for j in tape.jobs] == [
        ("queued", {"a": 1}),
        ("active", {"b": 2}),
    ]


def test_every_event_carries_the_environment():
    tape = Tape(environment="production")
    tape.recorder.job(1.0, job())
    tape.recorder.worker(
        1.0, Worker(external_id="w", hostname="h", pid=1, state="idle", extensions={"b": 2})
    )
    first, second = tape.events
    assert first.job.extensions == {"a": 1, "environment": "production"}
    assert second.worker.extensions == {"b": 2, "environment": "production"}


def test_without_an_environment_there_is_no_field():
    tape = Tape()
    tape.recorder.job(1.0, job())
    assert tape.event.job.extensions == {"a": 1}


@LAW
@given(jobs=st.lists(JOBS, min_size=1, max_size=5))
def test_what_is_recorded_can_be_put_into_a_body(jobs):
    tape = Tape()
    for one in jobs:
        tape.recorder.job(1.0, one)
    records = Reader(tape.ring).read(100, 2**30)
    assert body(records, RING_ID).count(b'"eventId":"%016x-' % RING_ID) == len(jobs)


# --- the ring -------------------------------------------------------------------------------------


def test_the_ring_is_made_at_the_first_event_and_only_then():
    opened = []

    def open_ring():
        opened.append(True)
        recorder.ring = memory_ring()

    recorder = Recorder(CONNECTION_ID, None, Notices(), open_ring)
    assert opened == []
    recorder.job(1.0, job())
    recorder.job(1.0, job())
    assert opened == [True]
    assert recorder.ring.next_seq == 2


def test_without_a_ring_an_event_is_nothing():
    recorder = Recorder(CONNECTION_ID, None, Notices(), lambda: None)
    recorder.job(1.0, job())
    assert recorder.ring is None
    assert recorder.missed == 1


def test_an_event_for_which_there_is_no_memory_is_counted():
    def fail():
        raise OSError(12, "Cannot allocate memory")

    recorder = Recorder(CONNECTION_ID, None, Notices(), fail)
    with pytest.raises(OSError, match="Cannot allocate"):
        recorder.job(1.0, job())
    assert recorder.missed == 1


def test_a_closed_recorder_makes_no_ring():
    opened = []
    recorder = Recorder(CONNECTION_ID, None, Notices(), lambda: opened.append(True))
    recorder.closed = True
    recorder.job(1.0, job())
    assert opened == []
    assert recorder.missed == 0


def test_the_sender_is_woken_when_a_quarter_of_the_ring_has_filled():
    tape = Tape(size=64 * 1024)
    bell = tape.recorder.bell = CountingBell()
    written = 0
    while written < tape.ring.capacity:
        assert bool(bell.rung) == (written >= tape.ring.capacity // 4)
        tape.recorder.job(1.0, job(error="x" * 900))
        written += (len(tape.payloads[-1]) + 23) & ~7
    assert bell.rung == 3


def test_without_a_bell_events_are_recorded_all_the_same():
    tape = Tape(size=64 * 1024)
    for _ in range(100):
        tape.recorder.job(1.0, job(error="x" * 900))
    assert tape.ring.next_seq == 100


# --- what cannot be written -----------------------------------------------------------------------

UNENCODABLE = [
    (1.0, job(name="half a pair \ud800")),
    (1.0, job(extensions={"a": object()})),
    (float("nan"), job()),
    (float("inf"), job()),
    (1e18, job()),
    (1e300, job()),
]


@pytest.mark.parametrize(("at", "bad"), UNENCODABLE)
def test_an_event_that_cannot_be_encoded_is_skipped_and_counted(at, bad):
    tape = Tape()
    tape.recorder.job(1.0, job(name="before"))
    tape.recorder.job(at, bad)
    tape.recorder.job(1.0, job(name="after"))
    assert [one.name for one in tape.jobs] == ["before", "after"]
    assert tape.ring.skipped_by == {"unencodable": 1, "too_large": 0, "contended": 0}
    assert tape.ring.captured == 3


def test_what_cannot_be_encoded_is_told_once_per_kind_and_without_its_text(caplog):
    tape = Tape()
    for _ in range(3):
        tape.recorder.job(1.0, job(name="secret-\ud800"))
        tape.recorder.job(1.0, job(extensions={"secret": object()}))
    tape.notices.log()
    assert ["UnicodeEncodeError" in text for text in caplog.messages] == [True, False]
    assert "TypeError" in caplog.messages[1]
    assert "secret" not in caplog.text
    assert tape.notices.faults == 0


def test_an_event_that_is_too_large_for_the_ring_is_counted():
    tape = Tape(size=64 * 1024)
    tape.recorder.job(1.0, job(error="x" * 9000))
    tape.recorder.job(1.0, job())
    assert tape.ring.skipped_by["too_large"] == 1
    assert tape.ring.captured == 2
    assert len(tape.jobs) == 1


def test_an_exception_of_a_signal_handler_passes_through():
    class TimeIsUp(BaseException):
        pass

    class Interrupted:
        def append(self, payload):
            raise TimeIsUp

    tape = Tape()
    tape.recorder.ring = Interrupted()
    with pytest.raises(TimeIsUp):
        tape.recorder.job(1.0, job())
