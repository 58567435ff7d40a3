"""What is kept of batches of events, in memory, in a file, and in PostgreSQL."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.collector import schema
from sluice.collector.store import SILENCE, Taken
from tests.collector.conftest import Kept
from tests.collector.wire import Wire, job, queue, taken, worker

ONE, TWO, T = "one@host", "two@host", 1_800_000_000.0


def active(task: str, at: float, worker_id: str = ONE, **fields: Any) -> Wire:
    return job(task, "active", T + at, workerId=worker_id, startedAt=T + at, **fields)


def said(name: str, state: str, at: float, **fields: Any) -> Wire:
    return worker(name, state, T + at, **fields)


def life(task: str, at: float = 0.0, **fields: Any) -> list[Wire]:
    """All that is told of a task that completes."""
    return [
        job(task, "queued", T + at, extensions={"celeryEvent": "task-sent"}, **fields),
        job(task, "queued", T + at + 1, workerId=ONE, **fields),
        active(task, at + 2, **fields),
        job(task, "completed", T + at + 5, workerId=ONE, completedAt=T + at + 5, **fields),
    ]


def without(rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """Rows in an order of their own, without what depends on when they came."""
    found = [{name: value for name, value in row.items() if name not in columns} for row in rows]
    return sorted(found, key=repr)


def kept_of(kept: Kept) -> dict[str, Any]:
    """What is shown, without numbers and times of arrival; of a story's bytes no order is said."""
    return {
        "tasks": without(kept.rows(schema.tasks), "changed", "story"),
        "workers": without(kept.rows(schema.workers), "heard", "body"),
        "queues": without(kept.rows(schema.queues)),
        "bytes": kept.facts()["bytes"],
        "dropped": kept.facts()["dropped"],
        "tallies": without([row for row in kept.rows(schema.tallies) if row["n"]]),
    }


# --- once -----------------------------------------------------------------------------------------


def test_an_event_is_taken_once_however_often_it_comes(kept):
    events = life("t")
    assert kept.take(*events) == Taken(accepted=4)
    before = kept_of(kept)
    assert kept.take(*events) == Taken(duplicates=4)
    assert kept.take(events[0], events[0], *life("u")[:1]) == Taken(accepted=1, duplicates=2)
    assert kept.states() == {"t": "completed", "u": "queued"}
    assert len(kept.rows(schema.events)) == 5
    facts = kept.facts()
    assert (facts["requests"], facts["events"], facts["duplicates"]) == (3, 5, 6)
    assert before["tasks"] == [row for row in kept_of(kept)["tasks"] if row["id"] == "t"]


def test_copies_in_batches_that_are_written_together_are_seen(kept):
    first, second, *rest = life("t")
    results, _ = kept.store.take([taken([first, second]), taken([second]), taken([first, *rest])])
    assert results == [Taken(2, 0), Taken(0, 1), Taken(2, 1)]
    assert kept.facts()["requests"] == 3


@pytest.mark.parametrize("place", ["file", "postgres"], indirect=True)
def test_what_was_heard_is_known_after_it_was_opened_again(open_store, place):
    events = [*life("t"), said(ONE, "online", 0), queue("q", T, depth=3)]
    kept = open_store(place)
    kept.take(*events)
    before = kept_of(kept)
    kept.close()
    again = open_store(place)
    assert kept_of(again) == before
    assert again.take(*events[:5]) == Taken(duplicates=5)
    again.take(job("t", "active", T + 2, workerId=ONE))
    assert again.states() == {"t": "completed"}


def test_an_event_without_a_number_counts_each_time(kept):
    event = job("t", "queued", T)
    del event["job"]["extensions"]
    assert [kept.take(event), kept.take(event)] == [Taken(accepted=1)] * 2
    assert len(kept.rows(schema.events)) == 2
    assert len(kept.tasks()) == 1


def test_numbers_of_two_connections_are_two(kept):
    event = job("t", "queued", T)
    other = event | {"connectionId": "00000000-0000-4000-8000-000000000000"}
    assert kept.take(event, other) == Taken(accepted=2)


def test_more_ids_than_one_query_names(kept):
    events = [job(f"t-{n}", "queued", T + n) for n in range(1203)]
    assert kept.take(*events) == Taken(accepted=1203)
    assert kept.take(*events) == Taken(duplicates=1203)
    assert len(kept.tasks()) == 1203


def test_a_batch_of_nothing_is_a_request(kept):
    assert kept.take() == Taken()
    assert kept.facts()["requests"] == 1


def test_each_change_has_a_greater_number(kept):
    seqs = [kept.store.take([taken(life(f"t-{n}"))])[1] for n in range(3)]
    assert seqs == [1, 2, 3]
    assert kept.facts()["seq"] == 3
    _, seq = kept.store.clear()
    assert seq == 4


# --- any order ------------------------------------------------------------------------------------

#: Two tasks, two workers, a retry, a death and a return: told in any order, in any batches.
_TOLD = [
    *life("a", max_retries=3),
    active("b", 0),
    job("b", "retrying", T + 1, workerId=ONE, error="boom"),
    active("b", 3, attempt=2),
    said(ONE, "online", -1, metadata={"pool": "prefork"}),
    said(ONE, "offline", 4, extensions={"reason": "killed", "droppedEvents": 7}),
    said(ONE, "online", 6),
    active("c", 2),
    active("c", 8, TWO),
    active("d", 7),
    said(TWO, "busy", 8),
    queue("q", T + 1, depth=5),
    queue("q", T + 2, depth=6),
]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_order_and_any_batches_are_shown_alike(data, open_store):
    order = data.draw(st.permutations(_TOLD))
    stops = sorted(data.draw(st.sets(st.integers(1, len(order) - 1), max_size=6)))
    kept, straight = open_store({}), open_store({})
    straight.take(*_TOLD)
    for start, stop in itertools.pairwise([0, *stops, len(order)]):
        kept.take(*order[start:stop], *data.draw(st.lists(st.sampled_from(order), max_size=2)))
    assert kept_of(kept) == kept_of(straight)
    assert kept.states() == {"a": "completed", "b": "lost", "c": "active", "d": "active"}
    assert not kept.tasks()["c"]["duplicate"]
    kept.close()
    straight.close()


# --- workers that end -----------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["killed", None])
@pytest.mark.parametrize("late", [False, True], ids=["in order", "the task late"])
def test_active_tasks_of_a_worker_that_ended_are_lost(kept, reason, late):
    end = said(ONE, "offline", 9, extensions={"reason": reason})
    told = [[active("t", 1), active("elsewhere", 1, TWO), *life("done")], [end]]
    for events in reversed(told) if late else told:
        kept.take(*events)
    assert kept.states() == {"t": "lost", "elsewhere": "active", "done": "completed"}


@pytest.mark.parametrize("together", [False, True])
def test_the_next_process_tells_of_its_end_and_comes_online_under_its_name(kept, together):
    """As the SDK does it: the report is in the first batch of the process that took its place."""
    kept.take(said(ONE, "online", 0), active("t", 1))
    told = [said(ONE, "offline", 5, extensions={"reason": "killed"}), said(ONE, "online", 9)]
    for events in [told] if together else [[one] for one in told]:
        kept.take(*events)
    assert kept.states() == {"t": "lost"}
    kept.take(active("t", 12))
    assert kept.states() == {"t": "active"}
    assert not kept.tasks()["t"]["duplicate"]


def test_what_was_started_after_the_end_was_told_of_is_not_lost(kept):
    kept.take(said(ONE, "offline", 5))
    kept.take(said(ONE, "online", 9), active("t", 10))
    assert kept.states() == {"t": "active"}


def test_another_worker_takes_over_before_the_end_of_the_first_is_told(kept):
    kept.take(active("t", 1), active("t", 20, TWO))
    assert kept.tasks()["t"]["duplicate"]  # nobody told of an end
    kept.take(said(ONE, "offline", 9))
    row = kept.tasks()["t"]
    assert (row["state"], row["duplicate"], row["worker"]) == ("active", False, TWO)


def test_the_end_of_a_worker_long_after_does_not_excuse_a_duplicate(kept):
    kept.take(active("t", 1), active("t", 2, TWO), job("t", "completed", T + 3, workerId=TWO))
    kept.take(said(ONE, "offline", 900))
    row = kept.tasks()["t"]
    assert (row["state"], row["duplicate"]) == ("completed", True)


def test_the_end_of_a_lost_task_is_its_end(kept):
    kept.take(active("t", 1), said(ONE, "offline", 5))
    kept.take(job("t", "failed", T + 4, workerId=ONE, completedAt=T + 4))
    assert kept.states() == {"t": "failed"}


# --- workers that say nothing ---------------------------------------------------------------------


def silent(kept: Kept) -> None:
    """A task is active on a worker of which nothing was heard for long."""
    kept.now = T
    kept.take(said(ONE, "busy", 0), said(TWO, "busy", 0), active("t", 1), active("u", 1, TWO))
    kept.now = T + SILENCE
    kept.take(said(TWO, "busy", SILENCE))
    assert kept.store.lose_silent() is None
    kept.now = T + SILENCE + 1
    assert kept.store.lose_silent() == kept.facts()["seq"]
    assert kept.states() == {"t": "lost", "u": "active"}
    assert kept.store.lose_silent() is None


def test_after_a_silence_what_is_active_there_is_lost_until_it_is_heard_again(kept):
    silent(kept)
    kept.now = T + 90
    kept.take(said(ONE, "busy", 90))
    assert kept.states() == {"t": "active", "u": "active"}
    assert kept.store.lose_silent() is None


def test_the_end_of_a_silent_worker_is_no_return(kept):
    silent(kept)
    kept.now = T + 90
    kept.take(said(ONE, "offline", 80))
    assert kept.states()["t"] == "lost"
    kept.now = T + 100
    kept.take(said(ONE, "online", 100))
    assert kept.states()["t"] == "lost"


def test_a_word_of_the_task_itself_takes_its_loss_back_for_as_long_as_a_silence(kept):
    silent(kept)
    kept.now = T + 90
    kept.take(job("t", "active", T + 90, workerId=ONE, progress=0.5))
    assert kept.states()["t"] == "active"
    assert kept.store.lose_silent() is None
    kept.now += SILENCE + 1
    kept.take(said(TWO, "busy", 151))
    assert kept.store.lose_silent() is not None
    assert kept.states() == {"t": "lost", "u": "active"}


def test_another_worker_takes_it_from_a_silent_one(kept):
    silent(kept)
    kept.take(active("t", 70, TWO))
    assert kept.states()["t"] == "active"


def test_many_are_lost_in_turns(kept):
    kept.now = T
    kept.take(said(ONE, "busy", 0), *(active(f"t-{n}", 1) for n in range(2600)))
    kept.now = T + SILENCE + 1
    turns = 0
    while kept.store.lose_silent() is not None:
        turns += 1
    assert turns == 2
    assert set(kept.states().values()) == {"lost"}


def test_a_task_of_a_worker_that_never_says_anything_of_itself_stays(kept):
    kept.take(active("t", 1))
    kept.now += 10 * SILENCE
    assert kept.store.lose_silent() is None


# --- what else is kept ----------------------------------------------------------------------------


def test_what_is_only_looked_at_is_not_written(kept):
    """A worker that goes on beside what it lost: nothing of that changes with each heartbeat."""
    kept.now = T
    kept.take(active("t", 1), said(ONE, "offline", 5), said(ONE, "online", 9))
    changed = kept.tasks()["t"]["changed"]
    for turn in range(1, 4):
        kept.now = T + 40 * turn
        kept.take(said(ONE, "busy", 40 * turn), said(TWO, "offline", 40 * turn))
    assert kept.tasks()["t"]["changed"] == changed
    assert kept.states() == {"t": "lost"}


def test_what_an_sdk_dropped_is_added_once(kept):
    told = [
        said(ONE, "idle", 0, extensions={"droppedEvents": 5}),
        job("t", "queued", T, extensions={"droppedEvents": 2}),
        said(ONE, "idle", 1, extensions={"droppedEvents": 0}),
        said(ONE, "idle", 2, extensions={"droppedEvents": True}),
        said(ONE, "idle", 3, extensions={"droppedEvents": "9"}),
        said(ONE, "idle", 4, extensions={"droppedEvents": -9}),
    ]
    kept.take(*told)
    kept.take(*told)
    assert kept.facts()["dropped"] == 7


def test_of_a_queue_the_latest_snapshot_counts(kept):
    kept.take(queue("q", T + 5, depth=5, consumers=2), queue("other", T, depth=2**70))
    kept.take(queue("q", T + 1, depth=1), queue("a\0b", T))
    kept.take(queue("q", T + 6, depth=0))
    assert without(kept.rows(schema.queues), "at") == without(
        [
            {"name": "q", "depth": 0, "consumers": None},
            {"name": "other", "depth": 2**53, "consumers": None},
            {"name": "a\N{REPLACEMENT CHARACTER}b", "depth": None, "consumers": None},
        ]
    )


def test_events_are_kept_as_they_came_with_their_order(kept):
    events = life("t")
    kept.take(*events)
    rows = sorted(kept.rows(schema.events), key=lambda row: row["seq"])
    assert [row["body"].encode() for row in rows] == [body for _, body in taken(events)]
    assert {row["task"] for row in rows} == {"t"}
    assert {row["received"] for row in rows} == {kept.now}


def test_what_no_sender_of_ours_makes_can_be_kept(kept):
    edges = ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z")
    huge = {"x": "\0", "y": 2**80, "z": 1.5e300, "runtime": 2**80}
    events = [
        *(job("\0", "active", edge, startedAt=edge, createdAt=edge) for edge in edges),
        job("\N{SNAKE}" * 512, "queued", T, name="\N{SNAKE}" * 1024, queue="\N{SNAKE}" * 255),
        job("u", "failed", T, error="\0" * 10_000, workerId="\N{SNAKE}" * 512, attempt=2**80),
        job("v", "completed", T, parentId="\N{SNAKE}" * 512, rootId="\N{SNAKE}" * 512),
        job("w", "completed", edges[1], startedAt=edges[0], completedAt=edges[1], extensions=huge),
        worker("\0", "busy", edges[0], pid=2**80, metadata={"processed": 2**80, "pool": "\0"}),
        worker("\N{SNAKE}" * 512, "offline", edges[1], extensions=huge | {"eventId": "\0" * 500}),
        queue("\N{SNAKE}" * 255, edges[1], depth=2**80),
    ]
    assert kept.take(*events) == Taken(accepted=9)
    assert kept.take(*events) == Taken(accepted=1, duplicates=8)  # a snapshot has no number
    assert set(kept.states()) == {"\N{REPLACEMENT CHARACTER}", "\N{SNAKE}" * 512, "u", "v", "w"}


def test_counts_of_refusals_are_added_and_the_last_one_is_noted(kept):
    kept.store.count({"refused_keys": 2, "invalid": 3})
    kept.now += 5
    kept.store.count({"refused_keys": 1, "invalid": 0})
    kept.now += 5
    kept.store.count({"invalid": 1})
    facts = kept.facts()
    assert (facts["refused_keys"], facts["invalid"], facts["seq"]) == (3, 4, 0)
    assert facts["last_refused"] == kept.now - 5


def test_when_anything_was_heard_is_noted(kept):
    kept.take(*life("t"))
    heard = kept.now
    kept.now += 9
    kept.take()
    assert kept.facts()["last_event"] == heard
