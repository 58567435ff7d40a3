"""What the events of one task say together, in whatever order they come."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.collector.rows import id_of, task_row
from sluice.collector.story import MOST, STATES, TERMINAL, Story, packed, seconds, unpacked
from sluice.events import Event
from tests.collector.wire import Wire, decoded, job, worker
from tests.doubles import LAW

TASK = "t-1"
#: A worker and the one that takes over, and somewhere between whole seconds: a task's beginning.
FIRST, SECOND, T = "one@host", "two@host", 1_700_000_000.25
WAITING = ("unknown", "queued", "scheduled")


def event(state: str, at: float, **fields: Any) -> Event:
    return decoded(job(TASK, state, T + at, **fields))


def sent(at: float, **fields: Any) -> Event:
    """What the sender of the task tells, by its own clock."""
    return event("queued", at, extensions={"celeryEvent": "task-sent"}, **fields)


def received(at: float, worker_id: str = FIRST, **fields: Any) -> Event:
    return event("queued", at, workerId=worker_id, **fields)


def started(at: float, worker_id: str = FIRST, **fields: Any) -> Event:
    return event("active", at, workerId=worker_id, **{"startedAt": T + at} | fields)


def done(at: float, state: str = "completed", worker_id: str = FIRST, **fields: Any) -> Event:
    return event(state, at, workerId=worker_id, **{"completedAt": T + at} | fields)


def retried(at: float, worker_id: str = FIRST, **fields: Any) -> Event:
    return event("retrying", at, workerId=worker_id, completedAt=T + at, **fields)


def story_of(*events: Event) -> Story:
    story = Story(TASK)
    for one in events:
        story.take(one)
    return story


def shown(story: Story) -> dict[str, Any]:
    """Its row, with the story itself unpacked: of its bytes the order of entries is no promise."""
    row = task_row(story, 0.0)
    return row | {"story": unpacked(row["story"])}


# --- the law --------------------------------------------------------------------------------------

#: Few values, so that events meet in the same attempt, at the same time, in the same state.
_times = st.integers(0, 4).map(float) | st.floats(-1, 5, allow_nan=False)
_workers = st.sampled_from([FIRST, SECOND])


@st.composite
def _wire(draw: st.DrawFn) -> Wire:
    moments = st.none() | _times.map(lambda at: T + at)
    fields = {
        "name": draw(st.sampled_from(["unknown", "a.task", "b.task"])),
        "attempt": draw(st.sampled_from([None, 1, 2, 3, 2**70])),
        "workerId": draw(st.none() | _workers),
        "queue": draw(st.sampled_from([None, "", "q", "r\0"])),
        "maxRetries": draw(st.sampled_from([None, 0, 3, 2**64])),
        "error": draw(st.sampled_from([None, "boom", "x" * 400])),
        "startedAt": draw(moments),
        "completedAt": draw(moments),
        "createdAt": draw(moments),
        "scheduledFor": draw(moments),
        "parentId": draw(st.sampled_from([None, "p", "o"])),
        "rootId": draw(st.sampled_from([None, "p", "o"])),
    }
    extensions = {
        "exceptionClass": draw(st.sampled_from([None, "ValueError", "KeyError", 5])),
        "runtime": draw(st.sampled_from([None, 0.5, 2, True, -1, "1"])),
        "celeryEvent": draw(st.sampled_from(["task-sent", "task-other"])),
    }
    state = draw(st.sampled_from([one for one in STATES if one != "lost"]))
    return job(TASK, state, T + draw(_times), extensions=extensions, **fields)


_EVENTS = st.lists(_wire().map(decoded), min_size=1, max_size=7)
_DEATHS = st.lists(st.tuples(_workers, _times.map(lambda at: T + at)), max_size=2)


@LAW
@given(data=st.data(), events=_EVENTS, deaths=_DEATHS)
def test_order_copies_and_pauses_change_nothing(data, events, deaths):
    """Whatever comes in whatever order, however often, and whether it was stored in between."""
    told: list[Any] = [*events, *deaths]
    again = data.draw(st.permutations(told + data.draw(st.lists(st.sampled_from(told)))))
    pauses = data.draw(st.sets(st.integers(0, len(again))))
    stories = []
    for order, stops in ((told, set()), (again, pauses)):
        story = Story(TASK)
        for place, one in enumerate(order):
            if isinstance(one, Event):
                story.take(one)
            else:
                story.lose(*one)
            if place in stops:
                story = unpacked(packed(story))
        stories.append(story)
    assert shown(stories[0]) == shown(stories[1])


@LAW
@given(events=_EVENTS, deaths=_DEATHS, more=_EVENTS)
def test_an_end_stays_an_end(events, deaths, more):
    story = story_of(*events, done(2.0))
    before = story.said["state"].key[1:4]
    assert story.state in TERMINAL
    for one in more:
        story.take(one)
    for one in deaths:
        story.lose(*one)
    story.silent = True
    assert story.state in TERMINAL
    assert story.ended is not None
    assert story.said["state"].key[1:4] >= before


@LAW
@given(events=_EVENTS, deaths=_DEATHS)
def test_what_is_shown_fits_the_tables(events, deaths):
    story = story_of(*events)
    for one in deaths:
        story.lose(*one)
    row = shown(story)
    assert row["state"] in STATES
    assert 1 <= row["attempt"] <= MOST
    assert row["max_retries"] is None or 0 <= row["max_retries"] <= MOST
    assert row["seen"] <= min(seconds(one.timestamp) or 0 for one in events)
    for name in ("wait", "run"):
        assert row[name] is None or row[name] >= 0
    assert not any("\0" in value for value in row.values() if isinstance(value, str))


# --- a life ---------------------------------------------------------------------------------------


def test_the_state_follows_a_life_with_a_retry():
    life = [
        (sent(0), "queued", 1),
        (received(1), "queued", 1),
        (started(3), "active", 1),
        (retried(4), "retrying", 1),
        (sent(4.5, attempt=2), "queued", 2),
        (received(5, attempt=2), "queued", 2),
        (started(8, attempt=2), "active", 2),
        (done(10, attempt=2), "completed", 2),
    ]
    story = Story(TASK)
    for one, state, attempt in life:
        story.take(one)
        assert (story.state, story.attempt) == (state, attempt)
    assert (story.started, story.ended) == (T + 8, T + 10)
    assert (story.wait, story.run) == (3.5, 2.0)


def test_a_requeue_within_one_attempt_waits_and_runs_again():
    """`acks_late` and a rejection: the message comes back with the number of retries it had."""
    story = story_of(received(0), started(1), retried(2))
    assert story.state == "retrying"
    story.take(received(3, SECOND))
    assert (story.state, story.started) == ("queued", None)
    story.take(started(4, SECOND))
    assert (story.state, story.started, story.text("worker")) == ("active", T + 4, SECOND)
    assert not story.is_duplicate
    story.take(done(6, worker_id=SECOND))
    assert (story.state, story.run) == ("completed", 2.0)


@pytest.mark.parametrize("ahead", [-30.0, 0.0, 2.5, 30.0])
def test_the_clock_of_the_sender_counts_against_no_worker(ahead):
    life = [sent(ahead), received(1), started(2), done(3)]
    states = []
    story = Story(TASK)
    for one in life:
        story.take(one)
        states.append(story.state)
    assert states == ["queued", "queued", "active", "completed"]
    assert story.text("worker") == FIRST
    assert story.run == 1.0
    assert story.wait is not None
    assert story.wait >= 0


@pytest.mark.parametrize("fields", [{}, {"extensions": {"celeryEvent": "task-revoked"}}])
def test_a_revoked_or_expired_task_is_cancelled_without_having_run(fields):
    story = story_of(sent(0), received(1), event("cancelled", 5, workerId=FIRST, **fields))
    row = shown(story)
    assert (row["state"], row["ended"], row["run"], row["wait"]) == ("cancelled", T + 5, None, None)


def test_a_revocation_that_comes_with_a_start_keeps_what_ran():
    story = story_of(received(0), started(1), done(4, "cancelled"))
    assert (story.state, story.run, story.wait) == ("cancelled", 3.0, 1.0)


def test_a_name_that_is_known_wins_over_unknown():
    """A task that no worker knows, or one of which only its revocation was heard."""
    story = story_of(sent(0, name="orders.charge"), done(1, "failed", name="unknown"))
    assert (story.text("name"), story.state) == ("orders.charge", "failed")
    assert story_of(done(1, "failed", name="unknown")).text("name") == "unknown"


def test_the_later_of_two_ends_counts_by_attempt_and_then_by_time():
    assert story_of(done(5), done(3, "failed", attempt=2)).state == "failed"
    assert story_of(done(5), done(3, "failed")).state == "completed"


def test_of_an_end_counts_the_time_that_its_own_event_tells():
    late = decoded(job(TASK, "completed", T + 9, completedAt=T + 7))
    assert story_of(late).ended == T + 7
    untold = decoded(job(TASK, "completed", T + 9))
    assert story_of(retried(3), untold).ended == T + 9


def test_of_what_happened_at_one_time_the_later_in_a_life_counts():
    assert story_of(started(1), received(1), retried(1), event("scheduled", 1)).state == "retrying"
    assert story_of(started(1), event("scheduled", 1), received(1)).state == "active"
    assert story_of(event("scheduled", 1), event("unknown", 1), received(1)).state == "scheduled"
    assert story_of(done(1, "failed"), done(1)).state == "failed"


# --- wait and run ---------------------------------------------------------------------------------


def test_who_has_an_eta_waits_from_then_on():
    story = story_of(sent(0, scheduledFor=T + 60), event("scheduled", 1), started(62))
    assert story.wait == 2.0
    assert story_of(event("scheduled", 1, scheduledFor=T + 60)).state == "scheduled"


def test_an_eta_of_an_earlier_attempt_does_not_count():
    """A retry at once of what somebody's clock started before its time."""
    first = [sent(0, scheduledFor=T + 65), started(61), retried(62)]
    story = story_of(*first, sent(63, attempt=2), started(66, attempt=2))
    assert story.wait == 3.0


def test_a_start_of_an_earlier_attempt_ends_no_wait():
    story = story_of(received(0), started(1), done(2), sent(3, attempt=2))
    assert (story.state, story.attempt, story.wait) == ("completed", 2, None)


def test_without_a_word_of_its_waiting_the_wait_is_not_known():
    assert story_of(started(1)).wait is None
    assert story_of(started(1, scheduledFor=T)).wait == 1.0


def test_the_run_is_what_the_worker_measured_where_it_says_so():
    story = story_of(started(1), done(3, extensions={"runtime": 1.75}))
    assert story.run == 1.75
    assert story_of(started(1)).run is None


@pytest.mark.parametrize("runtime", [True, "2", None, -1.0, 1e300, 10**30])
def test_a_runtime_that_is_no_duration_is_not_taken(runtime):
    story = story_of(started(1), done(3, extensions={"runtime": runtime}))
    assert story.run == 2.0


# --- duplicates, deaths ---------------------------------------------------------------------------


def test_two_starts_of_one_attempt_are_a_duplicate():
    assert not story_of(started(1), started(1)).is_duplicate
    assert story_of(started(1), started(30, SECOND)).is_duplicate
    assert story_of(started(1), started(30)).is_duplicate
    assert story_of(started(1), started(30, SECOND), done(40), done(41)).is_duplicate


def test_starts_of_two_attempts_or_after_it_was_given_back_are_none():
    assert not story_of(started(1), retried(2), started(3, attempt=2)).is_duplicate
    assert not story_of(started(1), started(3, attempt=2)).is_duplicate
    assert not story_of(started(1), retried(2), started(3, SECOND)).is_duplicate


def test_a_start_after_the_first_worker_died_is_no_duplicate():
    story = story_of(started(1), started(30, SECOND))
    story.lose(FIRST, T + 20)
    assert (story.is_duplicate, story.state) == (False, "active")


def test_a_worker_that_died_before_it_or_long_after_excuses_nothing():
    for at in (0.0, 1000.0):
        story = story_of(started(1), started(30, SECOND))
        story.lose(FIRST, T + at)
        assert story.is_duplicate, at
    story = story_of(started(1), started(30, SECOND))
    story.lose(SECOND, T + 31)
    assert story.is_duplicate


def test_who_dies_with_it_and_comes_back_under_its_name_starts_it_anew():
    story = story_of(started(1), started(30))
    story.lose(FIRST, T + 20)
    assert (story.is_duplicate, story.state) == (False, "active")
    story.lose(FIRST, T + 40)
    assert (story.is_duplicate, story.state) == (False, "lost")


def test_a_death_loses_what_was_active_there_and_a_later_word_takes_it_back():
    story = story_of(received(0), started(1))
    story.lose(FIRST, T + 5)
    assert story.state == "lost"
    story.take(received(9, SECOND))
    assert story.state == "queued"
    story.take(started(10, SECOND))
    assert story.state == "active"
    story.take(done(11, worker_id=SECOND))
    assert (story.state, story.is_duplicate) == ("completed", False)


def test_what_waits_or_has_ended_or_runs_elsewhere_is_not_lost_by_a_death():
    for told in (received(1), retried(1), done(1), sent(1)):
        story = story_of(told)
        story.lose(FIRST, T + 5)
        assert story.state != "lost"
    story = story_of(started(1))
    story.lose(SECOND, T + 5)
    assert story.state == "active"


def test_the_time_of_its_sending_does_not_take_a_loss_back():
    """The sender's clock is ahead, and its word comes late."""
    story = story_of(started(1))
    story.lose(FIRST, T + 5)
    story.take(sent(60))
    assert story.state == "lost"


def test_silence_loses_what_is_active_and_any_word_of_a_worker_takes_it_back():
    story = story_of(started(1))
    story.silent = True
    assert story.state == "lost"
    story.take(sent(0))
    assert story.state == "lost"
    story.take(event("active", 2, workerId=FIRST))
    assert story.state == "active"


# --- what nobody should send ----------------------------------------------------------------------


def test_numbers_beyond_every_integer_are_kept_as_the_largest():
    row = shown(story_of(event("queued", 0, attempt=2**200, maxRetries=10**40)))
    assert (row["attempt"], row["max_retries"], row["retries"]) == (MOST, MOST, MOST - 1)


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]
)
def test_times_at_the_edges_of_the_calendar_can_be_shown(text):
    wire = job(TASK, "completed", text, startedAt=text, completedAt=text, createdAt=text)
    row = shown(unpacked(packed(story_of(decoded(wire)))))
    for name in ("created", "seen", "ended", "started"):
        assert datetime.fromtimestamp(row[name], UTC).year in (1, 1970, 9999)
    assert row["run"] == 0.0


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_time_that_is_beyond_the_calendar_in_utc_is_none(text):
    assert seconds(datetime.fromisoformat(text)) is None
    row = shown(story_of(decoded(job(TASK, "active", T, startedAt=text, createdAt=text))))
    assert (row["started"], row["created"], row["seen"]) == (None, None, T)


def test_a_time_without_a_zone_is_one_of_utc():
    assert seconds(datetime(2020, 1, 1)) == datetime(2020, 1, 1, tzinfo=UTC).timestamp()  # noqa: DTZ001


def test_a_nul_is_replaced_wherever_a_text_is_kept():
    fields = dict.fromkeys(("name", "queue", "workerId", "error", "parentId", "rootId"), "a\0b")
    extensions = {"exceptionClass": "a\0b"}
    row = shown(story_of(decoded(job(TASK, "failed", T, extensions=extensions, **fields))))
    for name in ("name", "queue", "worker", "error", "parent", "root", "exception"):
        assert row[name] == "a\N{REPLACEMENT CHARACTER}b", name


def test_another_kind_of_event_or_none_with_a_time_is_refused():
    for wire in (worker(FIRST, "online"), job(TASK, "queued", "0001-01-01T00:00:00+05:00")):
        with pytest.raises(ValueError):
            story_of(decoded(wire))


# --- by what an event is known --------------------------------------------------------------------


def test_events_are_told_apart_by_their_connection_and_number():
    def known(event_id: Any, connection: str = "0" * 32) -> str | None:
        wire = copy.deepcopy(job(TASK, "queued", T))
        wire["connectionId"] = connection
        wire["job"]["extensions"] = {"eventId": event_id}
        return id_of(decoded(wire))

    assert known("r-1") == known("r-1")
    assert len({known("r-1"), known("r-2"), known("r-1", "1" * 32)}) == 3
    assert known("x" * 400 + "1") != known("x" * 400 + "2")
    assert [known(one) for one in ("", 5, None)] == [None] * 3
    assert "\0" not in (known("a\0b") or "\0")
