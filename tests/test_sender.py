"""The loop: bounded batches, in order, settled when their fate is decided, all accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.http import Outcome, Patience, Verdict
from sluice.sender import MOST_BYTES, MOST_EVENTS, Sender
from sluice.testing import FakeClock
from tests.doubles import LAW, memory_ring

INTERVAL = 1.0
MIB = 1024 * 1024
FINE, LATER = Outcome(Verdict.DELIVERED), Outcome(Verdict.LATER)
BAD, LARGE = Outcome(Verdict.REJECTED), Outcome(Verdict.TOO_LARGE)


def payload(n: int, size: int = 0) -> bytes:
    return b'{"job":{"n":%d,"x":"%b","extensions":{"a":1}}}' % (n, b"x" * size)


def numbers(body: bytes) -> list[int]:
    return [event["job"]["n"] for event in json.loads(body)["events"]]


def drops_in(body: bytes) -> list[int]:
    events = json.loads(body)["events"]
    return [event["job"]["extensions"].get("droppedEvents", 0) for event in events]


class Rig:
    """A sender over a ring in memory, a clock that jumps, and an API that is a function."""

    def __init__(self, size: int = MIB, interval: float = INTERVAL) -> None:
        self.clock = FakeClock()
        self.ring = memory_ring(size)
        self.written = 0
        #: Decides about each body; may call anything and raise.
        self.answer: Callable[[bytes], Outcome] = lambda body: FINE
        self.bodies: list[bytes] = []
        #: The numbers of the events that were delivered, in order.
        self.delivered: list[int] = []
        self.errors: list[object] = []
        self.chores = 0
        self.rung = False
        self.elsewhere = 0
        #: Called at each wait, with the number of waits so far.
        self.at_wait: Callable[[int], None] = lambda n: None
        self.sender = Sender(
            self.ring,
            deliver=self._deliver,
            wait=self._wait,
            clock=self.clock.monotonic,
            interval=interval,
            chores=self._do_chores,
            dropped_elsewhere=lambda: self.elsewhere,
            on_error=self.errors.append,
            on_odd=self.errors.append,
        )

    def _deliver(self, body: bytes, patience: Patience) -> Outcome:
        self.bodies.append(body)
        outcome = self.answer(body)
        if outcome.verdict is Verdict.DELIVERED:
            self.delivered += numbers(body)
        return outcome

    def _wait(self, seconds: float) -> bool:
        self.clock.wait(seconds)
        self.at_wait(len(self.clock.waits))
        return self.rung

    def _do_chores(self) -> None:
        self.chores += 1

    def capture(self, count: int, size: int = 0) -> None:
        for _ in range(count):
            self.ring.append(payload(self.written, size))
            self.written += 1

    def run(self, turns: int) -> None:
        """The loop with so many waits before it is told to end."""
        last = len(self.clock.waits) + turns

        def end(waits: int) -> None:
            if waits >= last:
                self.sender.end_by(self.clock.monotonic() + 60)

        self.at_wait = end
        self.sender.run()

    @property
    def pending(self) -> int:
        return self.ring.next_seq - self.ring.settled_seq

    @property
    def balance(self) -> int:
        account = self.sender.account
        return self.ring.captured - account.delivered - self.sender.dropped - self.pending


@pytest.fixture
def rig():
    return Rig()


# --- batches --------------------------------------------------------------------------------------


def test_a_batch_has_at_most_500_events(rig):
    rig.capture(1200)
    rig.sender.turn()
    assert MOST_EVENTS == 500
    assert [len(numbers(body)) for body in rig.bodies] == [500, 500, 200]
    assert rig.delivered == list(range(1200))


@pytest.mark.parametrize("size", [1000, 10_000, 60_000])
def test_a_body_has_at_most_512_kib(size):
    rig = Rig(8 * MIB)
    rig.capture(MIB // size + 20, size=size)
    rig.sender.turn()
    assert MOST_BYTES == 512 * 1024
    assert all(len(body) <= MOST_BYTES for body in rig.bodies)
    assert all(len(body) > MOST_BYTES - 40_000 - size for body in rig.bodies[:-1])
    assert rig.delivered == list(range(MIB // size + 20))


def test_an_event_over_512_kib_goes_alone():
    rig = Rig(8 * MIB)
    rig.capture(1)
    rig.capture(1, size=700_000)
    rig.capture(1)
    rig.sender.turn()
    assert [len(numbers(body)) for body in rig.bodies] == [1, 1, 1]


def test_an_event_larger_than_a_batch_goes_by_itself():
    rig = Rig(8 * MIB)
    rig.capture(2, size=600_000)
    rig.sender.turn()
    assert [numbers(body) for body in rig.bodies] == [[0], [1]]


def test_an_empty_ring_makes_no_request(rig):
    rig.sender.turn()
    assert rig.bodies == []
    assert rig.chores == 1


# --- the read mark --------------------------------------------------------------------------------


def test_the_read_mark_moves_only_over_what_was_delivered(rig):
    rig.capture(1200)
    marks = []

    def answer(body):
        marks.append(rig.ring.settled_seq)
        return FINE

    rig.answer = answer
    rig.sender.turn()
    assert marks == [0, 500, 1000]
    assert rig.ring.settled_seq == 1200


def test_a_batch_that_must_wait_stays_with_all_behind_it(rig):
    rig.capture(1200)
    answers = iter([FINE, LATER])
    rig.answer = lambda body: next(answers)
    rig.sender.turn()
    assert rig.ring.settled_seq == 500
    assert rig.pending == 700
    assert len(rig.bodies) == 2  # the third was not even tried

    rig.answer = lambda body: FINE
    rig.sender.turn()
    assert rig.delivered == list(range(1200))


@pytest.mark.parametrize("verdict", [Verdict.LATER, Verdict.UNAUTHORIZED, Verdict.MISDIRECTED])
def test_whatever_is_no_fate_leaves_the_events_where_they_are(rig, verdict):
    rig.capture(3)
    rig.answer = lambda body: Outcome(verdict)
    rig.sender.turn()
    assert (rig.pending, rig.sender.dropped, rig.sender.account.delivered) == (3, 0, 0)


def test_stopping_in_the_middle_of_halving_leaves_the_rest(rig):
    rig.capture(8)
    answers = iter([BAD, FINE, BAD, FINE, LATER])  # 0-7, 0-3, 4-7, 4-5, 6-7
    rig.answer = lambda body: next(answers)
    rig.sender.turn()
    assert rig.delivered == [0, 1, 2, 3, 4, 5]
    assert rig.ring.settled_seq == 6
    rig.answer = lambda body: FINE
    rig.sender.turn()
    assert rig.delivered == list(range(8))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{0}, {499}, {250}, {0, 499}, {7, 8}])
def test_a_bad_event_is_found_and_the_rest_is_delivered_in_order(rig, bad):
    rig.capture(500)
    rig.answer = lambda body: BAD if bad & set(numbers(body)) else FINE
    rig.sender.turn()
    assert rig.delivered == [n for n in range(500) if n not in bad]
    assert rig.sender.account.refused == {"rejected": len(bad), "too_large": 0, "before_send": 0}
    assert rig.pending == 0
    assert len(rig.bodies) <= 1 + 2 * 9 * len(bad)  # halving, not one by one


def test_a_batch_that_is_too_large_goes_in_halves(rig):
    rig.capture(500)
    rig.answer = lambda body: LARGE if len(numbers(body)) > 100 else FINE
    rig.sender.turn()
    assert rig.delivered == list(range(500))
    half = [250, 125, 62, 63, 125, 62, 63]
    assert [len(numbers(body)) for body in rig.bodies] == [500, *half, *half]
    assert rig.sender.dropped == 0


def test_an_event_that_is_too_large_by_itself_is_dropped(rig):
    rig.capture(3)
    rig.answer = lambda body: LARGE if 1 in numbers(body) else FINE
    rig.sender.turn()
    assert rig.delivered == [0, 2]
    assert rig.sender.account.refused == {"rejected": 0, "too_large": 1, "before_send": 0}


def test_an_api_that_refuses_everything_is_asked_ever_more_rarely(rig):
    pauses = []
    rig.answer = lambda body: BAD
    for _ in range(8):
        rig.capture(4)
        before = rig.clock.monotonic()
        rig.sender.turn()
        pauses.append(rig.clock.monotonic() - before)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert rig.sender.dropped == 32


def test_one_event_that_passes_ends_the_pauses(rig):
    rig.answer = lambda body: BAD
    rig.capture(4)
    rig.sender.turn()
    rig.answer = lambda body: FINE if numbers(body) == [5] else BAD
    rig.capture(4)
    before = rig.clock.monotonic()
    rig.sender.turn()
    assert rig.clock.monotonic() == before
    rig.answer = lambda body: BAD
    rig.capture(4)
    rig.sender.turn()
    assert rig.clock.monotonic() - before == 1


# --- drops ----------------------------------------------------------------------------------------


def test_drops_are_reported_once_with_the_next_batch_that_gets_through(rig):
    rig.ring.count_unencodable()
    rig.ring.count_unencodable()
    rig.elsewhere = 3
    rig.capture(600)
    answers = iter([LATER, FINE, FINE])
    rig.answer = lambda body: next(answers)
    rig.sender.turn()
    rig.sender.turn()
    first, again, second = (drops_in(body) for body in rig.bodies)
    assert first == again == [5] + [0] * 499
    assert second == [0] * 100

    rig.elsewhere += 1
    rig.capture(2)
    rig.answer = lambda body: FINE
    rig.sender.turn()
    assert drops_in(rig.bodies[-1]) == [1, 0]


def test_refused_events_are_reported_as_drops(rig):
    rig.capture(3)
    rig.answer = lambda body: BAD if 0 in numbers(body) else FINE
    rig.sender.turn()
    assert [sum(drops_in(body)) for body in rig.bodies] == [0, 0, 1]


def test_overwritten_events_are_reported_as_drops():
    rig = Rig(64 * 1024)
    rig.capture(100, size=1000)
    rig.sender.turn()
    rig.capture(1)
    rig.sender.turn()
    lost = 100 - len(rig.delivered) + 1
    assert lost > 0
    assert rig.sender.account.lost == lost
    assert sum(sum(drops_in(body)) for body in rig.bodies) == lost
    assert rig.delivered == list(range(lost, 101))


# --- the law --------------------------------------------------------------------------------------

VERDICTS = st.sampled_from(["fine", "later", "bad", "large", "raise", "more while it waits"])


@LAW
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 900), st.lists(VERDICTS, max_size=12)),
        max_size=8,
    ),
    unencodable=st.integers(0, 3),
)
def test_captured_is_delivered_and_dropped_and_pending(steps, unencodable):
    rig = Rig(64 * 1024)
    for _ in range(unencodable):
        rig.ring.count_unencodable()
    script: list[str] = []

    def answer(body: bytes) -> Outcome:
        assert rig.balance == 0
        verdict = script.pop() if script else "fine"
        if verdict == "raise":
            raise OSError("not foreseen")
        if verdict == "more while it waits":
            rig.capture(30, size=900)
        return {"later": LATER, "bad": BAD, "large": LARGE}.get(verdict, FINE)

    rig.answer = answer
    for count, size, verdicts in steps:
        rig.capture(count, size)
        script[:] = verdicts
        rig.sender._safely_turn()
        assert rig.balance == 0
        assert rig.sender.account.lost >= 0
    script.clear()
    rig.sender.turn()
    assert rig.pending == rig.balance == 0
    assert len(rig.delivered) == rig.sender.account.delivered
    assert rig.delivered == sorted(set(rig.delivered))  # in order, none twice


# --- the loop -------------------------------------------------------------------------------------


def test_the_loop_waits_sends_and_ends_when_told(rig):
    rig.capture(2)
    rig.run(turns=3)
    assert rig.sender.finished
    assert rig.delivered == [0, 1]
    assert rig.clock.waits == [INTERVAL] * 3


def test_a_long_interval_is_no_pause_for_the_chores():
    """A heartbeat is one of them, and a receiver takes a worker for gone after three."""
    rig = Rig(interval=7.0)
    rig.run(turns=8)
    assert rig.clock.waits == [2.0, 2.0, 2.0, 1.0] * 2
    assert rig.sender.turns_begun == 3
    assert rig.chores == 9


def test_who_rings_does_not_wait_for_the_rest_of_a_long_interval():
    rig = Rig(interval=60.0)
    rig.rung = True
    rig.run(turns=3)
    assert rig.clock.waits == [2.0] * 3
    assert rig.sender.turns_begun == 4


def test_what_is_captured_last_is_sent_before_the_end(rig):
    def end(waits):
        rig.capture(1)
        rig.sender.end_by(rig.clock.monotonic() + 60)

    rig.at_wait = end
    rig.sender.run()
    assert rig.delivered == [0]


def test_what_had_to_wait_is_tried_once_more_at_the_end(rig):
    rig.capture(1)

    def answer(body):
        ending, _ = rig.sender.ending, rig.sender.end_by(rig.clock.monotonic() + 60)
        return FINE if ending else LATER

    rig.answer = answer
    rig.sender.run()
    assert rig.delivered == [0]


def test_the_loop_survives_what_was_not_foreseen(rig):
    rig.capture(3)
    answers = iter([RuntimeError("ours"), KeyboardInterrupt(), FINE])

    def answer(body):
        found = next(answers)
        if isinstance(found, BaseException):
            raise found
        return found

    rig.answer = answer
    rig.run(turns=10)
    assert [type(error) for error in rig.errors] == [RuntimeError, KeyboardInterrupt]
    assert rig.delivered == [0, 1, 2]
    assert rig.balance == 0


def test_a_fault_is_not_repeated_without_a_pause(rig):
    rig.capture(1)
    times = []

    def answer(body):
        times.append(rig.clock.monotonic())
        raise RuntimeError

    rig.answer = answer
    rig.run(turns=10)
    apart = [b - a for a, b in pairwise(times)]
    assert all(seconds >= INTERVAL for seconds in apart[:4])
    assert len(apart) > 200, "again and again, in the time that is left at the end"
    assert all(seconds >= 0.19 for seconds in apart[:-1])


def test_a_chore_that_fails_stops_nothing_but_its_turn(rig):
    rig.capture(1)
    fails = iter([True, True])

    def chores():
        if next(fails, False):
            raise RuntimeError

    rig.sender._chores = chores
    rig.run(turns=6)
    assert len(rig.errors) == 2
    assert rig.delivered == [0]


def test_a_turn_counts_as_full_when_nothing_was_left(rig):
    rig.capture(1)
    rig.answer = lambda body: LATER
    rig.sender.turn()
    assert (rig.sender.turns_begun, rig.sender.last_full_turn) == (1, 0)
    rig.answer = lambda body: FINE
    rig.sender.turn()
    assert (rig.sender.turns_begun, rig.sender.last_full_turn) == (2, 2)


def test_a_turn_ends_although_events_come_all_the_time(rig):
    """Or a request would be made for each few of them, back to back, for as long as they come."""

    def answer(body: bytes) -> Outcome:
        rig.capture(3)
        return FINE

    rig.answer = answer
    rig.capture(5)
    rig.sender.turn()
    assert rig.delivered == [0, 1, 2, 3, 4]
    assert rig.sender.last_full_turn == 1
    rig.sender.turn()
    assert [len(numbers(body)) for body in rig.bodies] == [5, 3]


def test_what_was_there_is_known_to_be_sent_although_full_batches_keep_coming(rig):
    """`flush()` waits for this, and not for an end of the events."""
    full: list[int] = []

    def answer(body: bytes) -> Outcome:
        full.append(rig.sender.last_full_turn)
        if len(full) < 6:
            rig.capture(MOST_EVENTS)
        return FINE

    rig.answer = answer
    rig.capture(MOST_EVENTS + 100)
    rig.sender.turn()
    assert full == [0, 0, 1, 1, 1, 1, 1]


def test_the_last_turn_sends_what_came_meanwhile(rig):
    rig.capture(5)
    came = iter([3, 2])

    def answer(body: bytes) -> Outcome:
        rig.capture(next(came, 0))
        return FINE

    rig.answer = answer
    rig.sender.end_by(rig.clock.monotonic() + 60)
    rig.sender.turn()
    assert rig.delivered == list(range(10))


def test_chores_are_done_between_batches(rig):
    rig.capture(1200)
    rig.sender.turn()
    assert rig.chores == 4


# --- pauses ---------------------------------------------------------------------------------------


def test_chores_that_fail_between_two_tries_disturb_no_batch(rig):
    rig.capture(3)

    def fail() -> None:
        raise MemoryError

    def second_try(body: bytes) -> Outcome:
        rig.sender._chores = fail
        rig.sender.pause(1.0)
        return FINE

    rig.answer = second_try
    rig.sender.turn()
    assert rig.delivered == [0, 1, 2]
    assert (rig.sender.account.delivered, rig.sender.account.lost) == (3, 0)
    assert {type(error) for error in rig.errors} == {MemoryError}
    assert rig.balance == 0


def test_events_are_sent_whatever_becomes_of_the_chores(rig):
    def fail() -> None:
        raise OSError("again and again")

    rig.sender._chores = fail
    rig.capture(3)
    rig.run(2)
    assert rig.delivered == [0, 1, 2]


def test_a_count_that_is_smaller_for_a_moment_is_not_reported(rig):
    """Another thread lets a child go while the drops of all are summed up."""
    for elsewhere in (5, 3, 5, 6):
        rig.elsewhere = elsewhere
        rig.capture(1)
        rig.sender.turn()
    assert [sum(drops_in(body)) for body in rig.bodies] == [5, 0, 0, 1]


def test_chores_go_on_in_a_pause(rig):
    rig.sender.pause(3.5)
    assert rig.clock.waits == [1, 1, 1, 0.5]
    assert rig.chores == 4


def test_a_chore_that_fails_does_not_end_a_pause(rig):
    def chores():
        raise RuntimeError

    rig.sender._chores = chores
    before = rig.clock.monotonic()
    rig.sender.pause(3.5)
    assert rig.clock.monotonic() - before >= 3.5
    assert rig.errors


def test_a_pause_ends_when_the_process_does(rig):
    rig.at_wait = lambda waits: waits == 2 and rig.sender.end_by(rig.clock.monotonic() + 60)
    rig.sender.pause(300)
    assert rig.clock.waits == [1, 1, 0.2]


@pytest.mark.parametrize(
    ("seconds", "left", "waited"), [(9, 60, 0.2), (0.1, 60, 0.1), (9, 0.05, 0.05), (9, -1, 0)]
)
def test_tries_are_close_to_each_other_at_the_end(rig, seconds, left, waited):
    rig.sender.end_by(rig.clock.monotonic() + left)
    rig.sender.pause(seconds)
    assert rig.clock.waits == [pytest.approx(waited)]


def test_time_is_without_end_until_there_is_one(rig):
    assert rig.sender.time_left() == inf
    assert not rig.sender.ending
    rig.sender.end_by(rig.clock.monotonic() + 2)
    assert rig.sender.time_left() == 2
    assert rig.sender.ending


@pytest.mark.parametrize("outcome", [FINE, BAD, LARGE])
def test_a_slow_api_does_not_hold_the_end_up(outcome):
    rig = Rig(8 * MIB)
    rig.capture(10_000)
    begun = rig.clock.monotonic()

    def answer(body):
        rig.clock.advance(1)
        return outcome

    rig.answer = answer
    rig.sender.end_by(begun + 2)
    rig.sender.run()
    assert rig.clock.monotonic() - begun <= 3
    assert rig.balance == 0


def test_a_turn_without_time_is_not_a_full_one(rig):
    rig.capture(1)
    rig.sender.end_by(rig.clock.monotonic() - 1)
    rig.sender.turn()
    assert (rig.bodies, rig.sender.last_full_turn) == ([], 0)
