"""The parts wired: rounds in the background that survive, and answers that are counted once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from sluice.collector import application, reader
from sluice.collector.application import Collector
from sluice.collector.database import Database
from sluice.collector.options import BadOption, Options
from sluice.collector.reader import Reader
from sluice.collector.store import Store
from tests.collector.wire import body, job
from tests.harness import wait_for


@pytest.fixture
def collected():
    """A `Collector` that does not serve; closed after the test."""
    one = Collector(Options(port=0))
    yield one
    one.close()


# --- rounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "cls", "method", "path"),
    [
        ("looking for changes", Reader, "seq", "/api/tick"),
        ("counting", Store, "count", "/api/now"),
        ("keeping house", Store, "lose_silent", "/api/jobs"),
    ],
)
def test_a_round_that_fails_goes_on_and_is_told_of_once(
    collector, monkeypatch, caplog, place, cls, method, path
):
    monkeypatch.setattr(application, "_SOON", 0.02)
    monkeypatch.setattr(application, "_NOW_AND_THEN", 0.02)
    one = collector()
    turns = [0]

    def failing(*_: object) -> None:
        turns[0] += 1
        raise OSError("no room\nand a second line")

    with monkeypatch.context() as broken:
        broken.setattr(cls, method, failing)
        one.post_events([], key="wrong")  # something to count
        wait_for(lambda: turns[0] >= 5, what="the round to go on")
        assert one.get(path).status_code == 200
    assert caplog.messages.count(f"[sluice] {place} failed: OSError: no room") == 1
    before = one.get("/api/tick").json()["seq"]
    one.post_events([job("a", "queued")], key="sk_x")
    wait_for(lambda: one.get("/api/tick").json()["seq"] > before)
    wait_for(lambda: one.get("/api/now").json()["heard"]["refusedKeys"] == 1, what="the count")


def test_a_fault_is_told_of_again_after_a_minute(collected, monkeypatch, caplog):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(application.time, "monotonic", lambda: clock.now)
    for passed in (0, 1, 58, 0.9):
        clock.now += passed
        collected._tell("reading", ValueError("x"))
        collected._tell("writing", ValueError())
    assert len(caplog.messages) == 2
    clock.now += 0.2
    collected._tell("reading", ValueError("x"))
    assert caplog.messages == [
        "[sluice] reading failed: ValueError: x",
        "[sluice] writing failed: ValueError: ",
        "[sluice] reading failed: ValueError: x",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_the_oldest_tasks_go_while_it_runs(collector, monkeypatch):
    monkeypatch.setattr(application, "_NOW_AND_THEN", 0.02)
    one = collector(max_tasks=5)
    for number in range(12):
        at = time.time() - 100 + number
        one.post_events([job(f"t{number:02}", "completed", at, completedAt=at)])
    wait_for(lambda: len(one.get("/api/jobs").json()["jobs"]) == 5)
    assert [row["id"] for row in one.get("/api/jobs?sort=oldest").json()["jobs"]] == [
        f"t{number:02}" for number in range(7, 12)
    ]


# --- ends -----------------------------------------------------------------------------------------


def test_what_was_accepted_is_there_after_the_end(collector, tmp_path):
    one = collector(db=tmp_path / "db")
    done: list[int] = []
    ending = threading.Event()

    def send(sender: int) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for number in range(1000):
                if ending.is_set():
                    return
                with contextlib.suppress(requests.RequestException):
                    content = {"Authorization": "Bearer sk_x"}
                    task = sender * 1000 + number
                    answer = session.post(
                        f"{one.url}/api/ingest",
                        body(job(str(task), "queued")),
                        headers=content,
                        timeout=10,
                    )
                    if answer.status_code == 200:
                        done.append(task)

    senders = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for sender in senders:
        sender.start()
    wait_for(lambda: len(done) > 40)
    one.close()
    ending.set()
    for sender in senders:
        sender.join(20)
    again = collector(db=tmp_path / "db")
    kept = {int(row["id"]) for row in again.get("/api/export").json()}
    assert set(done) <= kept


def test_it_is_closed_where_it_never_served():
    one = Collector(Options(port=0))
    folder = Path(one._database._folder or "")
    assert (folder / "events.db").exists()
    one.close()
    one.close()
    assert not folder.exists()


def test_a_database_that_cannot_be_opened_is_a_bad_option(tmp_path):
    with pytest.raises(BadOption, match="nowhere"):
        Collector(Options(db=tmp_path / "nowhere" / "db"))


# --- answers that count everything ----------------------------------------------------------------


class Counting(Reader):
    """A reader that counts how often it asks the database, and how many at once."""

    def __init__(self, database: Any) -> None:
        super().__init__(database, Options())
        self.asked = self.at_once = self.most = 0
        self.faults = 0
        self.takes = 0.01

    async def run(self, query: Any) -> Any:
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(self.takes)
        self.at_once -= 1
        if self.faults:
            self.faults -= 1
            raise OSError("not now")
        return self.asked


@pytest.fixture
def counting(collected):
    return Counting(collected._database)


ALL = ["now", "failures", "names", "queues", "workers", "usual"]


@pytest.mark.parametrize("name", ALL)
def test_what_counts_everything_is_computed_once_for_all(counting, name):
    async def ask() -> list[Any]:
        return await asyncio.gather(*(getattr(counting, name)() for _ in range(20)))

    assert asyncio.run(ask()) == [1] * 20
    assert (counting.asked, counting.most) == (1, 1)


def test_each_question_has_its_own_answer(counting):
    async def ask() -> list[Any]:
        return [await getattr(counting, name)() for name in ALL]

    assert asyncio.run(ask()) == [1, 2, 3, 4, 5, 6]


def test_an_answer_stands_for_a_second_and_longer_if_it_was_dear(counting, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(reader.time, "monotonic", lambda: clock.now)

    async def ask(after: float) -> Any:
        clock.now += after
        return await counting.now()

    async def dear(query: Any) -> Any:
        clock.now += 2.0
        counting.asked += 1
        return counting.asked

    async def all_of_it() -> None:
        assert [await ask(0), await ask(0.9), await ask(0.2)] == [1, 1, 2]
        monkeypatch.setattr(counting, "run", dear)
        assert await ask(2.0) == 3
        assert [await ask(9.9), await ask(0.2)] == [3, 4]

    # Not by asyncio's clock, which is the same one.
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(loop, "time", time.perf_counter)
    try:
        loop.run_until_complete(all_of_it())
    finally:
        loop.close()


def test_who_asks_after_a_fault_gets_an_answer(counting):
    counting.faults = 1

    async def ask() -> list[Any]:
        return await asyncio.gather(*(counting.now() for _ in range(3)), return_exceptions=True)

    first, *others = asyncio.run(ask())
    assert isinstance(first, OSError)
    assert others == [2, 2]


def test_what_was_cleared_is_not_told_again(counting):
    async def ask() -> list[Any]:
        found = [await counting.now()]
        counting.forget()
        return [*found, await counting.now()]

    assert asyncio.run(ask()) == [1, 2]


def test_who_reads_cannot_write(collected):
    database: Database = collected._database
    with pytest.raises(Exception, match="readonly"), database.reading.begin() as connection:
        connection.exec_driver_sql("DELETE FROM sluice_tasks")


def test_reading_goes_on_while_somebody_writes(one):
    one.post_events([job("a", "queued")])
    with one.collector._database.write():
        begin = time.monotonic()
        assert one.get("/api/jobs").json()["jobs"]
        assert one.get("/api/now").status_code == 200
        assert time.monotonic() - begin < 10, "SQLite itself waits for fifteen"
