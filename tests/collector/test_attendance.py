"""What is known of one worker, in whatever order its words come."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.collector.attendance import Attendance, attendance_of
from sluice.events import Event
from tests.collector.wire import decoded, job, worker
from tests.doubles import LAW

NAME, T = "one@host", 1_700_000_000.0


def said(state: str, at: float, **fields: Any) -> Event:
    return decoded(worker(NAME, state, T + at, **fields))


def killed(at: float, *tasks: dict[str, Any]) -> Event:
    """What the next process tells of one that was killed."""
    return said("offline", at, extensions={"reason": "killed", "activeTasks": list(tasks)})


def kept(one: Attendance) -> Attendance:
    """What is known of it after it was in the database."""
    return attendance_of(SimpleNamespace(**one.row()))


def known(*events: Event, now: float = 5.0) -> Attendance:
    one = Attendance(NAME)
    for event in events:
        one = kept(one)
        one.take(event, now)
    return kept(one)


_EVENTS = st.lists(
    st.builds(
        said,
        st.sampled_from(["online", "idle", "busy", "offline"]),
        st.integers(-3, 3).map(float),
        activeJobs=st.none() | st.integers(0, 3),
        queues=st.none() | st.lists(st.sampled_from(["a", "b"]), max_size=2),
        metadata=st.none() | st.fixed_dictionaries({"pool": st.sampled_from(["solo", "prefork"])}),
        extensions=st.fixed_dictionaries(
            {}, optional={"reason": st.sampled_from(["killed", None]), "activeTasks": st.just([{}])}
        ),
    ),
    min_size=1,
    max_size=6,
)


@LAW
@given(data=st.data(), events=_EVENTS)
def test_order_and_copies_change_nothing(data, events):
    again = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events)))))
    assert known(*events) == known(*again)


def test_the_latest_word_counts_by_the_workers_own_clock():
    one = known(said("busy", 4, activeJobs=2), said("idle", 2, activeJobs=0), said("online", 0))
    assert (one.state, one.at, one.body["active"]) == ("busy", T + 4, 2)
    assert (one.online_at, one.offline_at) == (T, None)


def test_at_one_time_the_end_is_the_last_word():
    for events in ((said("busy", 1), killed(1)), (killed(1), said("busy", 1))):
        one = known(*events)
        assert (one.state, one.body["reason"]) == ("offline", "killed")


@pytest.mark.parametrize("late", [False, True])
def test_a_report_of_its_death_leaves_what_it_does_not_tell(late):
    words = [
        said("online", 0, concurrency=4, queues=["a"], metadata={"pool": "prefork"}),
        killed(9, {"externalId": "t", "name": "n", "attempt": 1, "runtime": 2.5}),
    ]
    one = known(*(reversed(words) if late else words))
    assert (one.state, one.offline_at, one.body["reason"]) == ("offline", T + 9, "killed")
    assert (one.body["pool"], one.body["concurrency"]) == ("prefork", 4)
    assert one.body["queues"] == ["a"]
    assert one.body["suspects"] == [{"externalId": "t", "name": "n", "attempt": 1, "runtime": 2.5}]


def test_who_comes_back_is_suspected_of_nothing():
    one = known(killed(9, {"externalId": "t"}), said("online", 12))
    assert (one.state, one.body["reason"], one.body["suspects"]) == ("online", None, [])
    assert (one.online_at, one.offline_at) == (T + 12, T + 9)


def test_any_word_is_heard_also_by_whom_the_clock_was_set_back():
    one = known(said("idle", 3600))
    one.take(said("busy", 0), 90.0)
    assert (one.heard, one.at) == (90.0, T + 3600)
    one.take(said("busy", 0), 80.0)
    assert one.heard == 90.0


def test_times_before_1970_are_times():
    one = known(*(decoded(worker(NAME, "online", at)) for at in (0.0, -5.0)))
    assert one.online_at == 0.0
    one = known(*(decoded(worker(NAME, "offline", at)) for at in (0.0, -5.0)))
    assert one.offline_at == 0.0


def test_what_is_kept_is_bounded_and_has_no_nul():
    huge = "x" * 100_000
    one = known(
        said(
            "busy",
            0,
            hostname=huge,
            pid=2**70,
            concurrency=2**70,
            activeJobs=10**40,
            queues=["a\0b"] * 5000,
            metadata={"pool": huge, "processed": 10**40, "loadAverage": [1.0] * 9000, huge: huge},
            extensions={"reason": huge, "activeTasks": [{"name": huge, huge: huge}] * 500},
        )
    )
    row = one.row()
    assert len(row["body"]) < 200_000
    assert "\0" not in row["body"]
    body = json.loads(row["body"])
    assert (body["pid"], body["processed"], body["active"]) == (2**53,) * 3
    assert len(body["loadAverage"]) == 3
    assert body["queues"] == ["a\N{REPLACEMENT CHARACTER}b"] * 100
    assert (len(body["suspects"]), set(body["suspects"][0])) == (100, {"name"})


@pytest.mark.parametrize("suspects", ["x", 5, None, [], [{}]])
def test_suspects_are_a_list_whatever_is_sent(suspects):
    one = known(said("offline", 0, extensions={"activeTasks": suspects}))
    assert one.body["suspects"] == (suspects if isinstance(suspects, list) else [])


def test_an_event_of_a_task_says_nothing_of_a_worker():
    for event in (decoded(job("t", "active", T)), said("idle", 0)):
        if event.job is None:
            event.timestamp = event.timestamp.min
            event.timestamp = event.timestamp.fromisoformat("0001-01-01T00:00:00+05:00")
        with pytest.raises(ValueError):
            Attendance(NAME).take(event, 0.0)
