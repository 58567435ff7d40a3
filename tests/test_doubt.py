"""Answers of 500: is the server in trouble, or is it about an event?  With tenacity's pauses."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import requests
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from sluice.config import Secret, Settings
from sluice.http import Deliverer, Outcome, Verdict, judge
from sluice.ring import Record
from sluice.sender import Sender
from tests.doubles import LAW, memory_ring

#: What a server answers at a time (seconds), to a request with the events of these numbers.
Server = Callable[[float, list[int]], int]


class Rig:
    """A sender and its deliverer on a clock that jumps, and a server that is a function."""

    made: ClassVar[list[Rig]] = []

    def __init__(
        self,
        server: Server,
        *,
        size: int = 1 << 20,
        latency: float = 0.0,
        kept_back: set[int] | None = None,
    ) -> None:
        self.now = 0.0
        Rig.made.append(self)
        self.ring = memory_ring(size)
        self.captured = 0
        #: (time, status, numbers) of each request.
        self.requests: list[tuple[float, int, list[int]]] = []
        self.arrived: list[int] = []
        self.chores_at = [0.0]
        self.odd: list[Outcome] = []
        #: Of each request that was taken, the drops that it told of.
        self.drops_told: list[int] = []
        self.server = server
        self.at_wait: Callable[[], object] = lambda: None
        rig = self

        class Posting(Deliverer):
            def _post(self, body: bytes) -> Outcome:
                jobs = [event["job"] for event in json.loads(body)["events"]]
                numbers = [job["n"] for job in jobs]
                rig.now += latency
                status = rig.server(rig.now, numbers)
                rig.requests.append((rig.now, status, numbers))
                if status == 200:
                    rig.drops_told += [job["extensions"].get("droppedEvents", 0) for job in jobs]
                    rig.arrived += [n for n in numbers if n not in rig.arrived]
                return judge(status)

        self.sender: Sender
        native: Any = SimpleNamespace(
            requests=requests, tenacity=tenacity, threading=threading, logging=logging
        )
        self.deliverer = Posting(
            Settings(api_key=Secret("sk"), connection_id="0" * 8, api_url="http://nobody"),
            native,
            pause=lambda seconds: self.sender.pause(seconds),  # noqa: PLW0108  made just below
            time_left=lambda: self.sender.time_left(),  # noqa: PLW0108
            on_trouble=lambda outcome: None,
        )

        def review(record: Record, ring_id: int) -> Record:
            kept = record.seq in (kept_back or ())
            return Record(b"" if kept else record.payload, record.seq, record.end, record.relayed)

        self.sender = Sender(
            self.ring,
            deliver=self.deliverer.deliver,
            wait=self._wait,
            clock=lambda: self.now,
            interval=1.0,
            chores=lambda: self.chores_at.append(self.now),
            dropped_elsewhere=lambda: 5,
            on_error=self._fail,
            on_odd=self.odd.append,
            review=review if kept_back else None,
        )

    @staticmethod
    def _fail(error: BaseException) -> None:
        raise error

    def _wait(self, seconds: float) -> bool:
        self.now += max(seconds, 1e-3)
        self.at_wait()
        return False

    def capture(self, count: int, size: int = 0) -> None:
        for _ in range(count):
            text = b'{"job":{"n":%d,"x":"%b","extensions":{"a":1}}}'
            self.ring.append(text % (self.captured, b"x" * size))
            self.captured += 1

    def until(self, seconds: float) -> Rig:
        """Turn by turn, until then."""
        while self.now < seconds and self.ring.settled_seq < self.ring.next_seq:
            self._wait(1.0)
            self.sender.turn()
        return self

    @property
    def refused(self) -> dict[str, int]:
        return self.sender.account.refused

    @property
    def balance(self) -> int:
        account = self.sender.account
        pending = self.ring.next_seq - self.ring.settled_seq
        return self.ring.captured - account.delivered - self.sender.dropped - pending


@pytest.fixture(autouse=True, scope="module")
def _the_clock_of_the_rig():
    """The deliverer asks it for how long a server has answered so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sluice.http.time", SimpleNamespace(monotonic=lambda: Rig.made[-1].now))
        yield


@pytest.fixture(autouse=True)
def _sessions_are_closed():
    yield
    while Rig.made:
        Rig.made.pop().deliverer.close()


def stumbles(*odd: int) -> Server:
    return lambda now, numbers: 500 if set(odd) & set(numbers) else 200


# --- the server is in trouble ---------------------------------------------------------------------


@given(
    troubles=st.lists(
        st.tuples(st.sampled_from([500, 500, 503, 429, 401]), st.floats(0.1, 700)),
        min_size=1,
        max_size=4,
    ),
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    validates=st.booleans(),
)
@LAW
def test_a_server_in_trouble_costs_no_event_however_long_and_whenever_it_recovers(
    troubles, counts, validates
):
    """Also where it looks at events first, and answers 400 to a bad one without its database."""

    def server(now: float, numbers: list[int]) -> int:
        if validates and 5 in numbers:
            return 400
        begin = 0.5
        for status, seconds in troubles:
            if begin <= now < begin + seconds:
                return status
            begin += seconds
        return 200

    rig = Rig(server)
    for count in counts:
        rig.capture(count)
        rig._wait(1.0)
        rig.sender.turn()
    rig.until(10_000)
    bad = {5} if validates else set()
    assert sorted(rig.arrived) == [n for n in range(rig.captured) if n not in bad]
    assert rig.sender.dropped == len(bad & set(range(rig.captured)))
    assert rig.odd == []
    assert rig.balance == 0


def test_who_was_suspected_while_it_was_in_trouble_is_asked_for_again():
    """It failed alone, and what came after it passed, but later."""
    alone: list[float] = []

    def server(now: float, numbers: list[int]) -> int:
        if numbers == [0]:
            alone.append(now)
        if alone and now > alone[0] + 30:
            return 200
        return 503 if len(alone) >= 3 and numbers != [0] else 500

    rig = Rig(server)
    rig.capture(2)
    rig.until(500)
    assert len(alone) == 4, "three times, and once more when the other one had passed"
    assert sorted(rig.arrived) == [0, 1]
    assert rig.sender.dropped == 0


@pytest.mark.parametrize(("status", "verdict"), [(400, "rejected"), (413, "too_large")])
def test_a_refusal_is_no_sign_that_what_is_good_would_pass(status, verdict):
    rig = Rig(lambda now, numbers: status if 2 in numbers else 500 if now < 200 else 200)
    dropped_at: list[float] = []
    rig.at_wait = lambda: rig.sender.dropped and dropped_at.append(rig.now)
    rig.capture(4)
    rig.until(2_000)
    rig._wait(1.0)
    assert dropped_at[0] > 200
    assert sorted(rig.arrived) == [0, 1, 3]
    assert rig.refused[verdict] == rig.sender.dropped == 1
    assert rig.balance == 0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("down", "ragged", "share"), [(70, 30, 0.8), (70, 10, 0.7), (0, 600, 0.9), (0, 600, 0.5)]
)
def test_a_server_that_recovers_raggedly_costs_no_event(seed, down, ragged, share):
    """Some answers are 500, by chance: each of a suspect's has one beside it that passed."""
    chance = random.Random(seed)
    random.seed(seed)  # tenacity's pauses

    def server(now: float, numbers: list[int]) -> int:
        if now < down:
            return 500
        return 500 if now < down + ragged and chance.random() < share else 200

    rig = Rig(server, latency=0.02)
    for _ in range(6):
        rig.capture(10)
        rig._wait(1.0)
        rig.sender.turn()
    rig.until(5_000)
    assert sorted(rig.arrived) == list(range(60))
    assert rig.sender.dropped == 0


def test_it_is_asked_little_meanwhile():
    rig = Rig(lambda now, numbers: 500 if now < 3_600 else 200)
    rig.capture(500)
    rig.until(3_500)
    alone = [one for one in rig.requests if len(one[2]) < 500]
    assert len(alone) < 13 * 40, "each five minutes it is looked for what may be odd"
    assert len(rig.requests) - len(alone) < 3_600 / 5, "as with any other trouble"
    rig.until(4_000)
    assert sorted(rig.arrived) == list(range(500))


# --- the server stumbles over an event ------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [{0}, {57}, {98}, {0, 1}, {10, 11, 12}, {3, 98}, set(range(20, 24)), {0, 1, 2, 3, 5}],
    ids=str,
)
def test_what_it_stumbles_over_costs_itself(odd):
    rig = Rig(stumbles(*odd))
    rig.capture(100)
    rig.until(200)
    assert rig.arrived == [n for n in range(100) if n not in odd]
    assert rig.refused["rejected"] == len(odd)
    assert [outcome.verdict for outcome in rig.odd] == [Verdict.REJECTED] * len(odd)
    parts = [numbers for _, _, numbers in rig.requests if 1 < len(numbers) < 100]
    assert len({tuple(numbers) for numbers in parts}) == len(parts), "who judges nobody: once"
    assert rig.balance == 0


def test_it_waits_a_minute_to_be_sure_and_less_for_the_next():
    rig = Rig(stumbles(0, 600))
    rig.capture(1_000)
    rig.until(500)
    first, second = (next(t for t, _, n in rig.requests if n == [odd]) for odd in (0, 600))
    assert 60 <= first < 130
    assert second - first < 60
    assert rig.arrived == [n for n in range(1_000) if n not in (0, 600)]
    rig.capture(10)
    rig.until(600)
    rig.server = stumbles(1_010)
    begin = rig.now
    rig.capture(10)
    rig.until(rig.now + 300)
    third = next(t for t, _, n in rig.requests if n == [1_010])
    assert third - begin >= 60, "it has gone well meanwhile"


def test_what_nothing_comes_after_waits_for_that():
    rig = Rig(stumbles(0))
    rig.capture(1)
    rig.until(400)
    assert rig.sender.dropped == 0
    assert len(rig.requests) < 120
    rig.capture(200)
    rig.until(600)
    assert rig.arrived == list(range(1, 201))
    assert rig.refused["rejected"] == 1


def test_what_comes_behind_the_batch_decides_about_its_last_one():
    rig = Rig(stumbles(499))
    rig.capture(1_200)
    rig.until(150)
    assert rig.arrived == [n for n in range(1_200) if n != 499]


def test_one_that_has_a_batch_for_itself_is_judged_as_well():
    rig = Rig(stumbles(0), size=8 << 20)
    rig.capture(1, size=500_000)
    rig.capture(20)
    rig.until(150)
    assert rig.arrived == list(range(1, 21))
    assert rig.refused["rejected"] == 1


@pytest.mark.parametrize("second", [12, 20])
def test_what_is_kept_back_between_is_no_suspect(second):
    rig = Rig(stumbles(0, second), kept_back=set(range(1, 12)))
    rig.capture(50)
    rig.until(400)
    assert rig.arrived == [n for n in range(12, 50) if n != second]
    assert (rig.refused["rejected"], rig.refused["before_send"]) == (2, 11)
    assert rig.balance == 0


@pytest.mark.parametrize("count", [90, 120, 400])
def test_any_number_may_be_kept_back_behind_it(count):
    rig = Rig(stumbles(0), kept_back=set(range(1, count + 1)))
    rig.capture(count + 201)
    rig.until(300)
    assert rig.arrived == list(range(count + 1, count + 201))
    assert rig.balance == 0


def test_no_more_than_ten_in_five_minutes_are_dropped():
    """A server of four parts, one of which is broken for an hour, is in trouble."""
    rig = Rig(lambda now, numbers: 500 if now < 3_600 and any(n % 4 == 0 for n in numbers) else 200)
    rig.capture(1_200)
    rig.until(3_600)
    assert 10 <= rig.refused["rejected"] <= 10 * 3_600 / 300 + 10
    rig.until(20_000)
    assert len(rig.arrived) == 1_200 - rig.refused["rejected"]


def test_refusals_behind_a_suspect_are_not_asked_for_all_the_time():
    rig = Rig(lambda now, numbers: 500 if 0 in numbers else 400)
    rig.capture(1_000)
    rig.until(3_600)
    assert rig.sender.dropped == 0, "nothing has passed"
    assert len(rig.requests) < 2_500 * 3_600 / 300, "each once in five minutes"


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("proofs", range(1, 5))
def test_the_end_of_the_time_condemns_nobody(proofs):
    """It comes while a suspect, and the one that passed behind it, are asked for in turns."""
    asked: list[list[int]] = []

    def server(now: float, numbers: list[int]) -> int:
        asked.append(numbers)
        if numbers == [1]:
            return 200
        if asked.count([1]) == proofs:
            rig.sender.end_by(rig.now)
        return 500

    rig = Rig(server)
    rig.capture(2)
    rig._wait(1.0)
    rig.sender.turn()
    assert rig.sender.dropped == 0
    assert rig.ring.settled_seq == 0


def test_drops_that_were_told_are_told_no_second_time():
    """The first of two is suspected, the second tells of them and passes, and then neither does."""
    passed: list[float] = []

    def server(now: float, numbers: list[int]) -> int:
        if passed and now > passed[0] + 300:
            return 200
        if numbers == [1] and not passed:
            passed.append(now)
            return 200
        return 500

    rig = Rig(server)
    rig.capture(2)
    rig.until(2_000)
    assert rig.arrived == [1, 0]
    assert [drops for drops in rig.drops_told if drops] == [5]


def test_the_last_turn_goes_on_until_the_time_is_up():
    """Also where one was dropped just before, and the next is doubted at once."""
    end = 0.0
    rig = Rig(
        lambda now, numbers: 500 if 0 in numbers or (end and end < now < end + 3) else 200,
        latency=0.01,
    )
    rig.capture(20)
    rig.until(300)
    assert rig.refused["rejected"] == 1
    end = rig.now
    rig.capture(3)
    rig.sender.end_by(rig.now + 10)
    rig.sender.run()
    assert rig.arrived == list(range(1, 23))
    assert rig.now < end + 4


def test_a_later_end_does_not_take_an_earlier_one_back():
    rig = Rig(lambda now, numbers: 503)
    rig.capture(1)
    rig.sender.end_by(2.0)
    rig.sender.end_by(60.0)
    rig.sender.run()
    assert rig.now < 2.5


def test_what_was_there_counts_as_sent_where_only_a_later_one_waits():
    rig = Rig(stumbles(999))
    rig.capture(500)

    def more() -> None:
        if rig.captured == 500 and rig.sender.turns_begun:
            rig.capture(500)

    rig.sender._dispatch._chores = more
    rig.server = lambda now, numbers: 500 if {499, 999} & set(numbers) else 200
    rig.sender.turn()
    assert rig.ring.settled_seq == 999
    assert rig.sender.last_full_turn == 1


@pytest.mark.parametrize("status", [400, 500])
def test_the_chores_go_on_while_it_is_looked_for(status):
    odd = set(range(0, 500, 60))
    rig = Rig(lambda now, numbers: status if odd & set(numbers) else 200, latency=0.2)
    rig.capture(500)
    rig.until(600)
    assert rig.arrived == [n for n in range(500) if n not in odd]
    assert max(b - a for a, b in pairwise(rig.chores_at)) < 5


@given(data=st.data())
@LAW
def test_all_adds_up_whatever_is_answered(data):
    """At every wait; in order, but for suspects that pass later; nothing kept back is sent."""
    odd = data.draw(st.sets(st.integers(0, 300), max_size=7))
    kept_back = data.draw(st.sets(st.integers(0, 300), max_size=100))
    chance = data.draw(st.randoms(use_true_random=False))
    others = [200, 400, 401, 413, 429, 500, 503]

    def server(now: float, numbers: list[int]) -> int:
        assert not kept_back & set(numbers)
        if chance.random() < 0.1:
            return chance.choice(others)
        return 500 if odd & set(numbers) else 200

    rig = Rig(server, size=1 << 16, kept_back=kept_back)

    def look() -> None:
        assert rig.balance == 0
        assert min(rig.sender.account.lost, *rig.refused.values()) >= 0
        if rig.captured < 300 and chance.random() < 0.5:
            rig.capture(chance.randrange(40), size=chance.randrange(300))

    rig.at_wait = look
    rig.capture(50)
    rig.until(20_000)
    pending = rig.ring.next_seq - rig.ring.settled_seq
    missing = rig.captured - len(rig.arrived)
    assert missing <= rig.sender.dropped + pending, "nothing is, that is not counted"
