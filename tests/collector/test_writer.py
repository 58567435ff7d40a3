"""The one thread that writes: who waits is told, and nothing stops it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from sluice.collector import writer
from sluice.collector.store import Taken
from sluice.collector.writer import Writer
from tests.collector.wire import job, taken
from tests.harness import wait_for


class Slow:
    """A store that waits until it may, and keeps what came together."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.begun = threading.Event()
        self.together: list[list[str]] = []
        self.refused: set[str] = set()
        self.faults: list[Exception] = []

    def take(self, batches: Sequence[Any]) -> tuple[list[Taken], int]:
        self.begun.set()
        assert self.may.wait(20)
        names = [event.job.external_id for batch in batches for event, _ in batch]
        if self.faults:
            raise self.faults.pop()
        if self.refused & set(names):
            raise ValueError("this cannot be written")
        self.together.append(names)
        return [Taken(accepted=len(batch)) for batch in batches], len(self.together)


@pytest.fixture
def store() -> Slow:
    return Slow()


@pytest.fixture
def seqs() -> list[int]:
    return []


@pytest.fixture
def one(store: Slow, seqs: list[int]) -> Iterator[Writer]:
    one = Writer(store, seqs.append)  # type: ignore[arg-type]
    yield one
    store.may.set()
    one.close(10)
    assert not one._thread.is_alive()


def offered(one: Writer, *names: str) -> Future[Taken]:
    promise = one.offer(taken(job(name, "queued") for name in names))
    assert promise is not None
    return promise


def held(one: Writer, store: Slow) -> Future[Taken]:
    """A batch that the store has begun to write, so that all others wait."""
    promise = offered(one, "first")
    assert store.begun.wait(10)
    return promise


def test_who_is_told_of_success_has_it_written(one, store, seqs):
    promise = held(one, store)
    assert not promise.done()
    store.may.set()
    assert promise.result(10) == Taken(accepted=1)
    assert store.together == [["first"]]
    wait_for(lambda: seqs == [1], what="the number of the change")


def test_batches_that_wait_are_written_together_each_with_its_own_answer(one, store):
    promises = [held(one, store), offered(one, "a", "b"), offered(one), offered(one, "c")]
    store.may.set()
    assert [promise.result(10).accepted for promise in promises] == [1, 2, 0, 1]
    assert store.together == [["first"], ["a", "b", "c"]]


def test_one_transaction_takes_a_bounded_number(one, store, monkeypatch):
    monkeypatch.setattr(writer, "_MOST_TOGETHER", 3)
    promises = [held(one, store), *(offered(one, f"{n}", f"{n}'") for n in range(5))]
    store.may.set()
    for promise in promises:
        promise.result(10)
    assert [len(names) for names in store.together] == [1, 4, 4, 2]


@pytest.mark.parametrize("names", [["x"], []], ids=["events", "empty"])
def test_where_too_much_waits_the_next_is_told_at_once_to_come_back(one, store, monkeypatch, names):
    monkeypatch.setattr(writer, "_MOST_WAITING", 5)
    promises = [held(one, store)]
    promises += [offered(one, *names) for _ in range(6)]
    assert one.offer(taken([job("more", "queued")])) is None
    store.may.set()
    for promise in promises:
        promise.result(10)
    assert offered(one, "later").result(10).accepted == 1


def test_a_failing_transaction_is_told_and_the_next_batch_is_tried(one, store):
    store.faults = [OSError("the disk is full")]
    promise = held(one, store)
    store.may.set()
    with pytest.raises(OSError, match="the disk is full"):
        promise.result(10)
    assert offered(one, "next").result(10).accepted == 1


def test_one_batch_that_cannot_be_written_refuses_no_other(one, store):
    store.refused = {"poison"}
    first = held(one, store)
    others = [offered(one, "a"), offered(one, "poison", "b"), offered(one, "c")]
    store.may.set()
    assert [one.result(10).accepted for one in (first, others[0], others[2])] == [1, 1, 1]
    with pytest.raises(ValueError, match="cannot be written"):
        others[1].result(10)
    assert store.together == [["first"], ["a"], ["c"]]


def test_who_has_gone_away_meanwhile_stops_nobody(one, store):
    """As where a connection ends while its batch waits, or is being written."""
    promises = [held(one, store), offered(one, "gone"), offered(one, "here")]
    assert not promises[0].cancel()  # it is being written
    assert promises[1].cancel()
    store.may.set()
    assert promises[0].result(10).accepted == 1
    assert promises[2].result(10).accepted == 1
    with pytest.raises(CancelledError):
        promises[1].result(10)
    assert store.together == [["first"], ["here"]]
    promise = offered(one, "next")
    assert promise.result(10).accepted == 1


def test_only_those_who_have_gone_away_is_no_transaction(one, store):
    promises = [held(one, store), offered(one, "gone")]
    assert promises[1].cancel()
    store.may.set()
    promises[0].result(10)
    assert offered(one, "next").result(10).accepted == 1
    assert store.together == [["first"], ["next"]]


def test_at_its_end_it_writes_what_waits_and_takes_no_more(one, store):
    promises = [held(one, store), offered(one, "a"), offered(one, "b")]
    store.may.set()
    one.close(10)
    assert not one._thread.is_alive()
    assert all(promise.done() for promise in promises)
    assert store.together == [["first"], ["a", "b"]]
    assert one.offer(taken([job("late", "queued")])) is None


def test_its_end_waits_no_longer_than_it_may(one, store):
    promise = held(one, store)
    one.close(0.01)
    assert not promise.done()


def test_a_loop_that_has_ended_hears_nothing_and_stops_nothing(store):
    def ended(seq: int) -> None:
        raise RuntimeError("Event loop is closed")

    one = Writer(store, ended)  # type: ignore[arg-type]
    store.may.set()
    assert offered(one, "a").result(10).accepted == 1
    assert offered(one, "b").result(10).accepted == 1
    one.close(10)
