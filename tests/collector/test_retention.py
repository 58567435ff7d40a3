"""How much is kept, for how long, what goes first, and that the counts are those of the rows."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.collector import detail, retention, schema
from tests.collector.conftest import Kept
from tests.collector.wire import Wire, job, queue, worker

T = 1_800_000_000.0
MANY = 10**9


def ended(task: str, at: float, **fields: Any) -> Wire:
    return job(task, "completed", T + at, completedAt=T + at, **fields)


def waiting(task: str, at: float) -> Wire:
    return job(task, "queued", T + at)


def pruned(kept: Kept, tasks: int = MANY, size: int = 2**40, oldest: float = 0.0) -> int:
    """Prune until there is nothing more to do, as the collector does it.  How many turns."""
    turns = 0
    while kept.store.prune(tasks_kept=tasks, bytes_kept=size, oldest=oldest) is not None:
        turns += 1
        exact(kept)
    return turns


def exact(kept: Kept) -> None:
    """The counts are those of the rows."""
    facts, rows = kept.facts(), kept.rows(schema.events)
    assert facts["bytes"] == sum(row["size"] for row in rows)
    assert facts["kept_events"] == sum(row["task"] is not None for row in rows)
    tasks = set(kept.tasks())
    assert {row["task"] for row in rows if row["task"]} <= tasks
    counted = [row for row in kept.rows(schema.tallies) if row["kind"] == "state"]
    assert sum(row["n"] for row in counted) == len(tasks)


def test_within_its_bounds_nothing_goes(kept):
    kept.take(*(ended(f"t-{n}", n) for n in range(5)))
    seq = kept.facts()["seq"]
    assert pruned(kept, tasks=5) == 0
    assert len(kept.tasks()) == 5
    facts = kept.facts()
    assert (facts["pruned"], facts["seq"]) == (0, seq)


def test_of_too_many_those_that_ended_first_go_and_then_the_oldest_others(kept):
    kept.take(
        waiting("w-1", 1), waiting("w-0", 0), ended("e-9", 9), ended("e-8", 8), waiting("w-7", 7)
    )
    for most, left in (
        (4, {"w-0", "w-1", "w-7", "e-9"}),
        (3, {"w-0", "w-1", "w-7"}),
        (1, {"w-7"}),
    ):
        assert pruned(kept, tasks=most) == 1
        assert set(kept.tasks()) == left
    assert kept.facts()["pruned"] == 4


def test_a_task_goes_with_all_its_events_and_a_word_after_that_begins_it_anew(kept):
    kept.take(job("t", "queued", T), job("t", "active", T + 1), ended("t", 2), ended("u", 3))
    pruned(kept, tasks=1)
    assert {row["task"] for row in kept.rows(schema.events)} == {"u"}
    kept.take(job("t", "failed", T + 4))
    assert kept.states() == {"u": "completed", "t": "failed"}
    exact(kept)


def test_of_too_many_bytes_a_share_goes_until_the_rest_fits(kept):
    kept.take(*(ended(f"t-{n:02}", n, stacktrace="x" * 1000) for n in range(40)))
    size = kept.facts()["bytes"]
    assert size > 40_000
    assert pruned(kept, size=int(size) // 4) >= 1
    assert kept.facts()["bytes"] <= size // 4
    left = sorted(kept.tasks())
    assert 5 <= len(left) <= 10
    assert left == [f"t-{n:02}" for n in range(40 - len(left), 40)]
    assert kept.facts()["pruned"] == 40 - len(left)


def test_one_huge_task_alone_goes_too(kept):
    kept.take(ended("t", 1, stacktrace="x" * 40_000))
    pruned(kept, size=20_000)
    assert (kept.tasks(), kept.facts()["bytes"]) == ({}, 0)


def test_what_has_not_changed_for_too_long_goes_whether_it_ended_or_not(kept):
    kept.take(ended("old", 0), waiting("waiting", 0), waiting("goes on", 0))
    kept.now += 100
    kept.take(ended("new", -500), job("goes on", "active", T + 1))
    pruned(kept, oldest=kept.now - 50)
    assert set(kept.tasks()) == {"new", "goes on"}
    assert kept.facts()["pruned"] == 2


def test_a_turn_deletes_a_bounded_number(kept, monkeypatch):
    monkeypatch.setattr(retention, "_MOST_AT_ONCE", 7)
    kept.take(*(ended(f"t-{n}", n) for n in range(40)))
    assert pruned(kept, tasks=10) == 5
    assert len(kept.tasks()) == 10
    kept.now += 100
    assert pruned(kept, oldest=kept.now) == 2
    assert kept.facts()["pruned"] == 40


def test_more_than_one_query_names_go_in_one_turn(kept):
    kept.take(*(ended(f"t-{n}", n) for n in range(1203)))
    assert pruned(kept, tasks=1) == 1
    assert set(kept.tasks()) == {"t-1202"}
    assert kept.facts()["pruned"] == 1202


def test_workers_and_queues_of_which_nothing_is_heard_go_with_age(kept):
    kept.take(worker("old", "online", T), queue("old", T))
    kept.now += 100
    kept.take(worker("new", "online", T + 100), queue("new", T + 100))
    pruned(kept, oldest=kept.now - 50)
    assert [row["id"] for row in kept.rows(schema.workers)] == ["new"]
    assert [row["name"] for row in kept.rows(schema.queues)] == ["new"]
    assert kept.facts()["pruned"] == 0


def test_the_numbers_of_workers_events_are_known_for_an_hour(kept):
    event = worker("w", "online", T)
    kept.take(event)
    kept.now += 3500
    pruned(kept)
    assert kept.take(event).duplicates == 1
    kept.now += 200
    pruned(kept)
    assert kept.rows(schema.events) == []


def test_the_number_of_the_last_event_never_falls(kept):
    """Or who follows would take it for a collector that began anew, and tell all again."""
    kept.take(waiting("w", 0), ended("t", 1), worker("last", "offline", T))
    fed = kept.facts()["fed"]
    kept.now += 2 * 3600
    pruned(kept, tasks=1)
    assert max(row["seq"] for row in kept.rows(schema.events)) < fed
    kept.store.clear()
    with kept.database.reading.begin() as connection:
        assert detail.feed(connection, -1, 1, None) == {"events": [], "last": fed}
    kept.take(waiting("w", 0))
    assert kept.facts()["fed"] > fed


def test_clear_forgets_everything_but_the_numbers_of_changes(kept):
    kept.take(ended("t", 1), waiting("u", 2), worker("w", "online", T), queue("q", T))
    kept.store.count({"invalid": 3, "refused_keys": 1})
    before = kept.facts()
    assert kept.store.clear() == (2, before["seq"] + 1)
    for table in (schema.tasks, schema.events, schema.workers, schema.queues, schema.tallies):
        assert kept.rows(table) == []
    facts = kept.facts()
    assert {name for name, n in facts.items() if n} == {"version", "seq", "since", "fed"}
    assert facts["since"] == before["since"]
    kept.take(ended("t", 1))
    assert kept.states() == {"t": "completed"}
    exact(kept)


_TASKS = st.sampled_from(["a", "b", "c", "d"])
_STEPS = st.one_of(
    st.lists(
        st.builds(
            lambda task, state, at, size: job(task, state, T + at, error="x" * size),
            _TASKS,
            st.sampled_from(["queued", "active", "retrying", "completed", "failed"]),
            st.integers(0, 9),
            st.integers(0, 50),
        ),
        max_size=5,
    ),
    st.fixed_dictionaries(
        {"tasks_kept": st.integers(1, 4), "bytes_kept": st.integers(500, 5000)},
        optional={"oldest": st.just(T + 50)},
    ),
    st.just("clear"),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(_STEPS, max_size=8))
def test_the_counts_are_those_of_the_rows_whatever_happens(steps, open_store):
    kept = open_store({})
    for step in steps:
        kept.now += 10
        if isinstance(step, dict):
            kept.store.prune(**{"oldest": 0.0} | step)
        elif step == "clear":
            kept.store.clear()
        else:
            kept.take(*step)
        exact(kept)
    kept.close()
