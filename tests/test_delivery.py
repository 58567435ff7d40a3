"""The sender's thread from its first turn to its end, against an API that is really there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sluice import native
from sluice.bell import Bell
from sluice.config import Secret, Settings
from sluice.delivery import Delivery
from sluice.descriptors import identify
from sluice.detect import Concurrency
from sluice.events import Job, encode_job
from sluice.http import Outcome, Verdict
from sluice.notices import Notices
from sluice.relay import Relay
from sluice.stats import tally
from sluice.testing import Answer, FakeClock, IngestServer
from tests.doubles import memory_ring
from tests.harness import CONNECTION_ID, wait_for
from tests.harness.workers import NOBODY_LISTENS

ORDINARY = native.load(Concurrency("none", frozenset()))
PAYLOAD = b'{"type":"job_state_change","job":{"externalId":"%d","extensions":{"a":1}}}'


class Rig:
    """A delivery over a ring in memory, on a thread of its own."""

    def __init__(
        self,
        url: str,
        chores: Callable[[], None] = lambda: None,
        *,
        is_worker: bool = False,
        **more: Any,
    ) -> None:
        self.ring = memory_ring(1 << 20)
        self.bell = Bell()
        self.notices = Notices()
        settings = Settings(
            api_key=Secret("sk_live_nobody"), connection_id=CONNECTION_ID, api_url=url, **more
        )
        self.delivery = Delivery(
            settings,
            self.ring,
            Relay(self.ring, print),
            self.bell,
            self.notices,
            native=lambda: ORDINARY,
            chores=chores,
            lost=lambda: 0,
            is_worker=lambda: is_worker,
        )
        self.thread = threading.Thread(target=self.delivery.run, daemon=True)

    def capture(self, count: int = 1) -> None:
        for _ in range(count):
            self.ring.append(PAYLOAD % self.ring.next_seq)
        self.bell.ring()

    def end(self, seconds: float) -> float:
        """Tell it to end in so many seconds, and say how many it took."""
        begin = time.monotonic()
        self.delivery.end_by(begin + seconds)
        if self.thread.ident is None:
            self.thread.start()
        self.bell.ring()
        self.thread.join(seconds + 20)
        return time.monotonic() - begin

    @property
    def told(self) -> list[str]:
        return [line for _, line in self.notices._waiting]


@pytest.fixture
def server():
    with IngestServer(check=False) as server:
        yield server


@pytest.fixture
def rig():
    """Make a `Rig`; it is ended after the test."""
    made: list[Rig] = []

    def make(url: str, **more: Any) -> Rig:
        made.append(Rig(url, **more))
        return made[-1]

    yield make
    for one in made:
        if one.thread.ident is not None:
            one.end(0)
        one.bell.close()


def test_at_the_end_it_sends_what_is_there_and_does_not_wait(rig, server):
    one = rig(server.url, flush_interval=60.0)
    one.thread.start()
    one.capture(3)
    assert one.end(20) < 10
    assert one.delivery.finished
    assert one.delivery.delivered == 3
    assert one.delivery.requests == 1


@pytest.mark.parametrize("answer", [Answer(fault="hang"), Answer(status=503)], ids=["hang", "503"])
def test_it_ends_in_time_while_the_api_does_not_answer(rig, server, answer):
    server.answer = answer
    one = rig(server.url, flush_interval=60.0)
    one.capture()
    took = one.end(2)
    assert one.delivery.finished
    assert 1.5 < took < 6, "all the time is used, and not that of a request"
    assert one.ring.settled_seq == 0


@pytest.mark.parametrize("begun", [False, True])
def test_it_ends_a_little_before_whoever_waits_for_it(rig, server, begun):
    """Five percent are left: for the thread's goodbye, which its waiter then sees."""
    server.answer = Answer(status=503)
    one = rig(server.url, flush_interval=0.05)
    one.capture()
    if begun:
        one.thread.start()
        wait_for(lambda: one.delivery.requests)
    one.delivery.end_by(time.monotonic() + 200)
    if not begun:
        one.thread.start()
        wait_for(lambda: one.delivery.requests)
    assert 170 < one.delivery._sender.time_left() <= 190


def test_it_can_be_told_to_end_before_it_has_begun(rig, server):
    one = rig(server.url, flush_interval=60.0)
    one.capture(2)
    assert one.end(20) < 10
    assert one.delivery.finished
    assert one.delivery.delivered == 2


def test_a_trouble_is_told_of_when_it_begins_and_when_it_is_over(rig, server):
    server.answer = Answer(status=503)
    one = rig(server.url, flush_interval=0.05)
    one.thread.start()
    one.capture()
    wait_for(lambda: one.delivery.requests >= 2, 20)
    (line,) = one.told
    assert "cannot be delivered now: the API answered 503" in line
    assert one.delivery.works
    server.answer = Answer()
    wait_for(lambda: one.delivery.delivered == 1, 60)
    wait_for(lambda: len(one.told) == 2)
    assert one.told[1] == "[sluice] Events are delivered again."


def test_a_collector_that_is_not_there_is_said_to_be_started(rig):
    one = rig("http://127.0.0.1:9/api", flush_interval=0.05, proxied=False)
    one.thread.start()
    one.capture()
    wait_for(lambda: one.told, 20)
    assert "`sluice dev` starts it" in one.told[0]
    one.end(0)


@pytest.mark.parametrize(("status", "says"), [(401, "SLUICE_API_KEY"), (404, "SLUICE_API_URL")])
def test_it_says_when_it_does_not_work_and_what_to_do(rig, server, status, says):
    server.answer = Answer(status=status)
    one = rig(server.url, flush_interval=0.05)
    one.thread.start()
    one.capture()
    wait_for(lambda: not one.delivery.works)
    (line,) = one.told
    assert says in line


def test_a_trouble_that_lasts_is_told_of_once_and_the_next_one_anew(rig, monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr("sluice.notices.time", clock)
    one = rig(NOBODY_LISTENS)
    delivered = Outcome(Verdict.DELIVERED)
    one.delivery._deliverer = SimpleNamespace(deliver=lambda *_: delivered, requests=0)
    told = []
    for verdict in (
        Verdict.LATER,
        Verdict.LATER,
        None,
        None,
        Verdict.REJECTED,
        None,
        Verdict.LATER,
    ):
        if verdict is None:
            one.delivery._deliver(b"", 0.0)
        else:
            one.delivery._on_trouble(Outcome(verdict, "reason"))
        clock.advance(61)
        told.append(len(one.told))
    assert told == [1, 1, 2, 2, 3, 3, 4]


def test_a_trouble_that_comes_again_within_a_minute_is_told_of_after_it(rig, monkeypatch):
    """Or the last word would be that all is well, for as long as the outage lasts."""
    clock = FakeClock()
    monkeypatch.setattr("sluice.notices.time", clock)
    one = rig(NOBODY_LISTENS)
    one.delivery._deliverer = SimpleNamespace(
        deliver=lambda *_: Outcome(Verdict.DELIVERED), requests=0
    )
    told = []
    for verdict, seconds in ((Verdict.LATER, 0), (None, 1), *[(Verdict.LATER, 25)] * 5, (None, 1)):
        clock.advance(seconds)
        if verdict is None:
            one.delivery._deliver(b"", 0.0)
        else:
            one.delivery._on_trouble(Outcome(verdict, "reason"))
        told.append(len(one.told))
    assert told == [1, 2, 2, 2, 3, 3, 3, 4]


# --- the chores -----------------------------------------------------------------------------------


class Chores:
    """Counts them, and how many were at it at once."""

    def __init__(self) -> None:
        self.done = self.at_once = self.most_at_once = 0

    def __call__(self) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002)  # what they take, not a wait
        self.at_once -= 1
        self.done += 1


@pytest.mark.parametrize("is_worker", [True, False])
def test_in_a_worker_they_go_on_while_a_request_hangs(rig, server, is_worker):
    server.answer = Answer(fault="hang")
    chores = Chores()
    one = rig(
        server.url,
        chores=chores,
        is_worker=is_worker,
        flush_interval=0.05,
        request_timeout=(5.0, 60.0),
    )
    one.thread.start()
    one.capture()
    wait_for(lambda: server.connections, 20)
    before = chores.done
    if is_worker:
        wait_for(lambda: chores.done > before + 5, 10)
        one.bell.ring()  # a child's ring is a quarter full
        wait_for(lambda: chores.done > before + 10, 10)
    else:
        assert chores.done <= before + 1
    assert one.delivery.requests == 1
    assert chores.most_at_once == 1


def test_two_threads_are_never_at_them_together(rig, server):
    chores = Chores()
    one = rig(server.url, chores=chores, is_worker=True, flush_interval=0.05)
    one.thread.start()
    for _ in range(40):
        one.capture()
        before = chores.done
        wait_for(lambda: chores.done > before, 10)
    one.end(5)
    after = chores.done
    assert one.delivery.delivered == 40
    assert chores.most_at_once == 1
    assert not one.delivery._has_taken_turn(), "kept after the end: nothing moves any more"
    assert chores.done == after


def test_a_helper_that_fails_says_so_and_goes_on(rig, server):
    server.answer = Answer(fault="hang")

    def fail() -> None:
        failed.append(True)
        raise MemoryError

    failed: list[bool] = []
    one = rig(
        server.url,
        chores=fail,
        is_worker=True,
        flush_interval=0.05,
        request_timeout=(5.0, 60.0),
    )
    one.thread.start()
    wait_for(lambda: len(failed) > 3, 20)
    assert one.notices.faults >= 3
    assert one.end(0.5) < 5


def test_a_sender_that_stands_still_is_told_of(rig, server, monkeypatch):
    """A finaliser that waits for a green lock, say, which only its own hub could give."""
    monkeypatch.setattr("sluice.delivery._STANDS_STILL", 0.1)
    stuck, free = threading.Event(), threading.Event()

    def chores() -> None:
        stuck.set()
        free.wait(60)

    one = rig(server.url, chores=chores, flush_interval=0.05, request_timeout=(0.1, 0.1))
    one.delivery.look_after()  # one that has not begun is not slow
    one.thread.start()
    assert stuck.wait(10)
    assert one.told == []

    def told() -> bool:
        one.delivery.look_after()
        return bool(one.told)

    wait_for(told, 10)
    for _ in range(5):
        one.delivery.look_after()
    (line,) = one.told
    assert "stands still" in line
    free.set()
    one.end(5)


def test_an_event_that_is_refused_is_no_lasting_trouble(rig, server):
    server.answer = Answer(status=400)
    one = rig(server.url, flush_interval=0.05)
    one.thread.start()
    one.capture()
    wait_for(lambda: one.delivery.dropped_by.get("rejected") == 1)
    assert one.delivery.works
    (line,) = one.told
    assert "refused an event" in line


def test_whatever_goes_wrong_it_comes_to_an_end_and_says_so(rig):
    one = rig(NOBODY_LISTENS)

    def fail() -> Any:
        raise SystemExit("nothing can be imported")

    one.delivery._native = fail
    one.thread.start()
    wait_for(lambda: one.notices.faults == 1)
    assert not one.delivery.works
    assert one.end(5) < 5
    assert one.delivery.finished
    assert "nothing can be" not in one.told[0]


def test_a_sender_that_cannot_begin_tries_again(rig, server, monkeypatch):
    """Its modules' files are not to be had without descriptors, say."""
    monkeypatch.setattr("sluice.delivery._FIRST_RESTART", 0.01)
    one = rig(server.url, flush_interval=0.05)
    found, fails = one.delivery._native, iter([OSError(24, "x"), OSError(24, "x")])

    def native() -> Any:
        for error in fails:
            raise error
        return found()

    one.delivery._native = native
    one.capture()
    one.thread.start()
    wait_for(lambda: one.delivery.delivered == 1, 20)
    assert one.notices.faults == 2
    assert one.delivery.works
    one.end(5)


def test_its_connection_is_closed_at_the_end(rig, server):
    one = rig(server.url)
    one.thread.start()
    one.capture()
    wait_for(lambda: one.delivery.delivered == 1, 20)
    ((descriptor, (identity, _)),) = one.delivery._deliverer.sockets._known.items()
    assert identify(descriptor) == identity is not None
    one.end(5)
    assert identify(descriptor) != identity, "the number may be another's by now"


def test_the_chores_are_those_of_the_relay_and_the_clients(rig, server):
    done = []
    one = rig(server.url, flush_interval=0.05, chores=lambda: done.append(1))
    child = memory_ring(ring_id=5)
    one.delivery._relay.add(child)
    child.append(PAYLOAD % 0)
    one.thread.start()
    wait_for(lambda: one.delivery.delivered == 1, 20)
    assert done


def test_what_before_send_did_is_counted(rig, server):
    def before_send(event: dict[str, Any]) -> dict[str, Any] | None:
        if event["job"]["externalId"] == "0":
            raise ValueError
        if event["job"]["externalId"] == "1":
            time.sleep(0.15)  # what it takes, not a wait
        return event

    one = rig(server.url, before_send=before_send, flush_interval=0.05)
    for number in range(3):
        one.ring.append(encode_job(CONNECTION_ID, 1.0, job(str(number))))
    one.end(10)
    assert one.delivery.reviews == (1, 1)
    counts = tally(one.ring, one.delivery._relay, one.delivery, "thread", 0, lost={})
    assert (counts.before_send_failed, counts.before_send_slow) == (1, 1)
    assert counts.dropped_by == {"before_send": 1}
    assert counts.delivered == 2


def job(task_id: str) -> Job:
    return Job(external_id=task_id, name="n", state="active", extensions={"a": 1})
