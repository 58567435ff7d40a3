"""`before_send`: what it changes is changed, what it keeps back stays, its faults are survived."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.events import Job, Worker
from sluice.http import Outcome, Patience, Verdict
from sluice.notices import Notices
from sluice.recorder import Recorder
from sluice.review import SLOW, Review
from sluice.ring import Reader, Record
from sluice.sender import Sender
from sluice.testing import FakeClock
from tests.doubles import LAW, RING_ID, Tape, decoded, memory_ring
from tests.harness import CONNECTION_ID


def record(name: str = "n", error: str | None = None) -> Record:
    recorder = Recorder(CONNECTION_ID, None, Notices(), lambda: None)
    recorder.ring = memory_ring()
    job = Job(external_id="1", name=name, state="failed", error=error)
    job.extensions = {"celeryEvent": "task-failed"}
    recorder.job(1e9, job)
    (written,) = Reader(recorder.ring).read(1, 1 << 20)
    return written


def reviewed(before_send: Any, **more: Any) -> tuple[Record, Review]:
    review = Review(before_send, Notices())
    return review(record(**more), RING_ID), review


def test_it_gets_a_plain_dict_as_it_is_sent():
    seen = []
    reviewed(seen.append, name="orders.charge")
    (event,) = seen
    assert type(event) is dict
    assert event["job"]["name"] == "orders.charge"
    assert event["job"]["extensions"]["eventId"] == f"{RING_ID:016x}-0"
    assert event["connectionId"] == CONNECTION_ID


def test_what_it_returns_is_sent():
    def shorten(event: dict[str, Any]) -> dict[str, Any]:
        event["job"]["error"] = event["job"]["error"].replace("Bob", "[name]")
        return event

    sent, review = reviewed(shorten, error="Bob was not found")
    event = decoded(sent.payload)
    assert event.job.error == "[name] was not found"
    assert sent.relayed, "its id is part of it"
    assert review.failed == review.slow == 0


def test_an_event_that_is_let_pass_is_the_same():
    sent, _ = reviewed(lambda event: event, error="e")
    event = decoded(sent.payload)
    assert event.job.error == "e"
    assert event.job.extensions == {
        "celeryEvent": "task-failed",
        "eventId": f"{RING_ID:016x}-0",
    }


def test_the_id_stays_whatever_is_done_to_it():
    def spoil(event: dict[str, Any]) -> dict[str, Any]:
        event["job"]["extensions"] = {}
        return event

    sent, _ = reviewed(spoil)
    assert decoded(sent.payload).job.extensions == {"eventId": f"{RING_ID:016x}-0"}
    assert sent.payload.endswith(b'"}}}'), "a body's first event is told of drops there"


@pytest.mark.parametrize(
    "answer",
    [
        0,
        "",
        [],
        {},
        {"job": 1},
        {"type": "job_state_change"},
        pytest.param(object(), id="an object"),
    ],
    ids=repr,
)
def test_an_answer_that_is_no_event_is_not_sent(answer):
    sent, review = reviewed(lambda _: answer)
    assert sent.payload == b""
    assert review.failed == 1


@pytest.mark.parametrize("error", [ValueError, RecursionError, SystemExit, KeyboardInterrupt])
def test_an_exception_keeps_the_event_back_and_is_told_of_without_its_text(error):
    def broken(_: object) -> None:
        raise error("a secret")

    notices = Notices()
    review = Review(broken, notices)
    for _ in range(3):
        assert review(record(), RING_ID).payload == b""
    assert review.failed == 3
    ((_, line),) = notices._waiting
    assert error.__name__ in line
    assert "a secret" not in line


def test_a_slow_run_is_counted_and_told_of():
    clock = FakeClock()
    notices = Notices()

    def slow(event: dict[str, Any]) -> dict[str, Any]:
        clock.advance(2 * SLOW)
        return event

    review = Review(slow, notices, clock=clock.monotonic)
    assert review(record(), RING_ID).payload
    assert review.slow == 1
    assert notices.pending


def test_a_fault_that_lasts_is_told_of_once_a_minute(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr("sluice.notices.time", clock)
    notices = Notices()
    review = Review(lambda _: {}, notices)
    for _ in range(3):
        for _ in range(5):
            review(record(), RING_ID)
        clock.advance(61)
    assert len(notices._waiting) == 3


def test_an_id_that_is_changed_is_put_back():
    def change(event: dict[str, Any]) -> dict[str, Any]:
        event["job"]["extensions"]["eventId"] = "mine"
        return event

    sent, _ = reviewed(change)
    assert decoded(sent.payload).job.extensions["eventId"] == f"{RING_ID:016x}-0"


def test_an_event_about_nothing_is_not_sent():
    def empty(event: dict[str, Any]) -> dict[str, Any]:
        del event["job"]
        return event

    sent, review = reviewed(empty)
    assert sent.payload == b""
    assert review.failed == 1


def test_a_workers_event_is_asked_about_too():
    tape = Tape()
    worker = Worker(external_id="w", hostname="h", pid=1, state="online", extensions={"a": 1})
    tape.recorder.worker(1e9, worker)
    (written,) = Reader(tape.ring).read(1, 1 << 20)
    names = []

    def look(event: dict[str, Any]) -> dict[str, Any]:
        names.append(event["worker"]["externalId"])
        return event

    review = Review(look, Notices())
    assert decoded(review(written, RING_ID).payload).worker.hostname == "h"
    assert names == ["w"]
    assert review.failed == 0


@LAW
@given(
    answer=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["job", "worker", "type", "timestamp", "framework", "extensions"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_any_answer_is_an_event_or_nothing(answer):
    sent, _ = reviewed(lambda _: answer)
    if sent.payload:
        decoded(sent.payload)


# --- in the sender --------------------------------------------------------------------------------


class Rig:
    """A sender with a review, over an API that answers as told."""

    def __init__(self, before_send: Any, answer: Verdict = Verdict.DELIVERED) -> None:
        self.ring = memory_ring(1 << 20)
        self.clock = FakeClock()
        self.bodies: list[list[dict[str, Any]]] = []
        self.answer = answer
        self.chores = 0
        recorder = Recorder(CONNECTION_ID, None, Notices(), lambda: None)
        recorder.ring = self.ring
        self._recorder = recorder
        self.sender = Sender(
            self.ring,
            deliver=self._deliver,
            wait=self.clock.wait,
            clock=self.clock.monotonic,
            interval=1.0,
            chores=self._count_chores,
            dropped_elsewhere=int,
            on_error=self._fail,
            on_odd=self._fail,
            review=Review(before_send, Notices(), clock=self.clock.monotonic),
        )

    def _count_chores(self) -> None:
        self.chores += 1

    @staticmethod
    def _fail(error: BaseException) -> None:
        raise error

    def _deliver(self, body: bytes, _patience: Patience) -> Outcome:
        self.bodies.append(msgspec.json.decode(body)["events"])
        return Outcome(self.answer)

    def capture(self, count: int) -> None:
        for number in range(count):
            job = Job(external_id=str(number), name="n", state="queued")
            job.extensions = {"celeryEvent": "task-sent"}
            self._recorder.job(1e9, job)

    def ids(self) -> list[int]:
        return [int(event["job"]["externalId"]) for body in self.bodies for event in body]

    def balance(self) -> int:
        account = self.sender.account
        pending = self.ring.next_seq - self.ring.settled_seq
        return self.ring.captured - account.delivered - self.sender.dropped - pending


def only_even(event: dict[str, Any]) -> dict[str, Any] | None:
    return None if int(event["job"]["externalId"]) % 2 else event


def test_what_is_kept_back_is_a_drop_and_the_rest_goes_on():
    rig = Rig(only_even)
    rig.capture(200)
    rig.sender.turn()
    assert rig.ids() == list(range(0, 200, 2))
    assert rig.sender.account.delivered == 100
    assert rig.sender.account.refused["before_send"] == 100
    assert rig.sender.account.lost == 0
    assert rig.balance() == 0


def test_nothing_is_posted_where_all_is_kept_back():
    rig = Rig(lambda _: None)
    rig.capture(120)
    rig.sender.turn()
    assert rig.bodies == []
    assert rig.clock.waits == [], "that is no reason to be careful with the API"
    assert rig.ring.settled_seq == 120
    assert rig.balance() == 0


@pytest.mark.parametrize("verdict", [Verdict.REJECTED, Verdict.TOO_LARGE])
def test_an_api_that_refuses_all_gets_each_alone(verdict):
    rig = Rig(only_even, verdict)
    rig.capture(20)
    rig.sender.turn()
    assert rig.sender.account.refused[verdict.name.lower()] == 10
    assert rig.sender.account.refused["before_send"] == 10
    assert rig.balance() == 0


def test_an_api_that_is_down_leaves_all_where_it_is():
    rig = Rig(only_even, Verdict.LATER)
    rig.capture(20)
    rig.sender.turn()
    assert rig.ring.settled_seq == 0
    assert rig.balance() == 0


def test_without_time_it_is_not_asked():
    asked = []
    rig = Rig(asked.append)
    rig.capture(3)
    rig.sender.end_by(rig.clock.monotonic())
    rig.sender.turn()
    assert asked == []


def test_a_slow_one_holds_up_neither_the_chores_nor_the_end():
    rig = Rig(only_even)

    def slow(event: dict[str, Any]) -> dict[str, Any]:
        rig.clock.advance(0.5)
        return event

    rig.sender._review = Review(slow, Notices(), clock=rig.clock.monotonic)
    rig.capture(200)
    rig.sender.end_by(rig.clock.monotonic() + 30)
    begin = rig.clock.monotonic()
    rig.sender.turn()
    assert rig.clock.monotonic() - begin <= 30.5
    assert rig.chores >= 2
    assert rig.ids() == list(range(50))
    assert rig.balance() == 0
