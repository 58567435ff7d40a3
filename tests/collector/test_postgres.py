"""Several collectors on one PostgreSQL: nothing lost, nothing twice, and all hear of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from sluice.collector import application, schema
from sluice.collector.database import Database
from sluice.collector.listener import Listener
from sluice.collector.options import BadOption, Options
from tests.collector.conftest import KEY, Kept, Running, postgres_server
from tests.collector.wire import Wire, body, job, queue, taken, worker
from tests.harness import Process, environment, wait_for
from tests.harness.postgres import Postgres

T = 1_800_000_000.0
WRITERS, BATCHES, TASKS = 3, 12, 25


def batches(writer: int) -> list[list[Wire]]:
    """What one sender delivers: its own tasks, those of all, and of them some events of all."""
    return [
        [
            *(job(f"own-{writer}-{n}", "queued", T + n) for n in range(turn, turn + 3)),
            *(
                job(f"shared-{n}", state, T + at + turn, workerId="w@h")
                for n in reversed(range(TASKS))
                for at, state in enumerate(("queued", "active"))
                if (n + turn + writer) % 3 == 0
            ),
            worker("w@h", "busy", T + turn),
            queue(f"q-{turn % 2}", T + turn, depth=writer),
        ]
        for turn in range(BATCHES)
    ]


def checked(kept: Kept, sent: list[Wire]) -> None:
    """Each event is there once, and each task's row is what its events say."""
    numbers = {event["job"]["extensions"]["eventId"] for event in sent if "job" in event}
    with kept.database.reading.begin() as connection:
        bodies = connection.scalars(
            sa.text("SELECT body FROM sluice_events WHERE body IS NOT NULL")
        ).all()
    found = [json.loads(one)["job"]["extensions"]["eventId"] for one in bodies]
    assert len(found) == len(set(found))
    assert set(found) == numbers
    straight = Kept({})
    straight.take(*sent)
    assert kept.states() == straight.states()
    mine, theirs = kept.facts(), straight.facts()
    for name in ("bytes", "dropped"):
        assert mine[name] == theirs[name]
    straight.close()


def test_stores_that_write_at_once_lose_and_double_nothing(open_store, database_url):
    """Also where each event is sent to two of them, and tasks come in another order to each."""
    stores = [open_store({"database_url": database_url}) for _ in range(WRITERS)]
    ready = threading.Barrier(WRITERS)
    told = [batches(writer) for writer in range(WRITERS)]

    def write(place: int) -> int:
        ready.wait(20)
        accepted = 0
        for turn in range(BATCHES):
            own, copy = told[place][turn], told[(place + 1) % WRITERS][turn]
            accepted += sum(one.accepted for one in stores[place].store.take([taken(own)])[0])
            copies = taken(event for event in copy if "queue" not in event)
            accepted += stores[place].store.take([copies])[0][0].accepted
        return accepted

    with ThreadPoolExecutor(WRITERS) as threads:
        accepted = sum(threads.map(write, range(WRITERS)))
    sent = [event for writer in told for batch in writer for event in batch]
    assert accepted == len(sent)
    checked(stores[0], sent)
    assert stores[0].facts()["seq"] == 2 * WRITERS * BATCHES


def test_stores_that_begin_at_once_make_the_tables_once(database_url):
    ready = threading.Barrier(4)

    def begin(_: int) -> Database:
        ready.wait(20)
        return Database(Options(database_url=database_url))

    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(begin, range(4)))
    for one in opened:
        one.close()


def test_pruning_losing_and_clearing_beside_a_writer_ends_in_no_deadlock(open_store, database_url):
    one, other = (open_store({"database_url": database_url}) for _ in range(2))
    ended = threading.Event()

    def keep_house() -> int:
        turns = 0
        while not ended.is_set() or not turns:
            turns += 1
            other.store.prune(tasks_kept=20, bytes_kept=10**6, oldest=0.0)
            other.store.lose_silent()
            other.store.count({"invalid": 1})
            if turns % 5 == 0:
                other.store.clear()
        return turns

    with ThreadPoolExecutor(1) as threads:
        house = threads.submit(keep_house)
        try:
            for events in batches(0) + batches(1):
                one.take(*events)
        finally:
            ended.set()
        assert house.result(30) > 0
    rows = one.rows(schema.events)
    assert one.facts()["bytes"] == sum(row["size"] for row in rows)


# --- LISTEN/NOTIFY --------------------------------------------------------------------------------


@pytest.fixture
def heard() -> list[int]:
    return []


@pytest.fixture
def listener(
    postgres: Postgres, database_name: str, heard: list[int]
) -> Iterator[Callable[[], Listener]]:
    """Begin to listen, and wait until it does."""
    begun: list[Listener] = []

    def begin() -> Listener:
        one = Listener(sa.make_url(postgres.url(database_name)), heard.append)
        begun.append(one)
        wait_for(lambda: listeners(postgres, database_name), 20, "it to listen")
        return one

    yield begin
    for one in begun:
        one.close()
        one._thread.join(20)
        assert not one._thread.is_alive()


def listeners(postgres: Postgres, database: str) -> set[int]:
    """The processes of the server by which somebody listens."""
    rows = postgres.query(
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND query = 'LISTEN sluice'"
        " AND state = 'idle'",
        (database,),
        database="postgres",
    )
    return {pid for (pid,) in rows}


def test_a_change_is_heard_by_another_process_at_once(open_store, database_url, listener, heard):
    kept = open_store({"database_url": database_url})
    listener()
    for n in range(1, 4):
        kept.take(job(f"t-{n}", "queued", T))
        wait_for(lambda n=n: heard == list(range(1, n + 1)), 5, "the number of the change")
    kept.store.clear()
    wait_for(lambda: heard == [1, 2, 3, 4], 5, "the number of the change")


def test_what_is_not_written_is_not_told(open_store, database_url, listener, heard):
    kept = open_store({"database_url": database_url})
    listener()

    def fail() -> None:
        with kept.database.write() as connection:
            connection.execute(sa.text("SELECT pg_notify('sluice', '77')"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    kept.take(job("t", "queued", T))
    wait_for(lambda: heard, 5, "the number of the change")
    assert heard == [1]


def test_words_of_others_on_its_channel_are_passed_over(postgres, database_name, listener, heard):
    listener()
    for payload in ("", "x", "-1", "1.5", "\u0665 x", "9" * 5000, "12"):
        postgres.query("SELECT pg_notify('sluice', %s)", (payload,), database=database_name)
    wait_for(lambda: 12 in heard, 5, "the number")
    assert listeners(postgres, database_name)


def test_a_listener_survives_the_end_of_its_connection(
    postgres, database_name, open_store, database_url, listener, heard
):
    kept = open_store({"database_url": database_url})
    listener()
    ended = listeners(postgres, database_name)
    assert postgres.terminate(database_name, "LISTEN%") == 1
    wait_for(lambda: listeners(postgres, database_name) - ended, 20, "it to listen again")
    kept.take(job("t", "queued", T))
    wait_for(lambda: heard == [1], 5, "the number of the change")


# --- connections that end -------------------------------------------------------------------------


def test_a_store_survives_the_end_of_its_connections(postgres, database_name, open_store):
    kept = open_store({"database_url": postgres.url(database_name)})
    kept.take(job("t", "queued", T))
    kept.tasks()
    assert postgres.terminate(database_name, "%") >= 2
    kept.take(job("t", "active", T + 1))
    assert kept.states() == {"t": "active"}


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that this test alone may stop."""
    with postgres_server() as one:
        yield one


def test_a_collector_survives_a_restart_of_the_server(
    own_postgres: Postgres, collector: Callable[..., Running]
):
    one = collector(database_url=own_postgres.url())
    assert one.post_events([job("before", "queued")]).json()["accepted"] == 1
    own_postgres.stop()
    meanwhile = job("meanwhile", "queued")
    answer = one.post_events([meanwhile])
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    own_postgres.start()

    def taken_in() -> bool:
        return one.post_events([meanwhile]).status_code == 200

    wait_for(taken_in, 20, "the event to be taken in")
    jobs = one.get("/api/jobs").json()["jobs"]
    assert {shown["id"] for shown in jobs} == {"before", "meanwhile"}
    wait_for(lambda: listeners(own_postgres, "postgres"), 10, "it to listen again")


# --- whole processes ------------------------------------------------------------------------------


def collectors(postgres: Postgres, database: str, number: int) -> Iterator[tuple[Process, str]]:
    """Real `sluice dev` processes on one database, and where they listen."""
    environ = environment(extra={"SLUICE_COLLECTOR_DATABASE_URL": postgres.url(database)})
    command = [sys.executable, "-m", "sluice", "dev", "--port", "0"]
    begun = [Process(command, env=environ, name=f"sluice dev {n}") for n in range(number)]
    try:
        for one in begun:
            (line,) = one.wait_line("Events:", 30)
            yield one, line.split()[-1].removesuffix("/api/ingest")
    finally:
        for one in begun:
            one.kill()


@pytest.fixture
def two(postgres: Postgres, database_name: str) -> Iterator[list[tuple[Process, str]]]:
    """Two of them, as behind a load balancer."""
    processes = collectors(postgres, database_name, 2)
    yield [next(processes), next(processes)]
    processes.close()  # type: ignore[attr-defined]


def posted(url: str, events: list[Wire]) -> dict[str, Any]:
    with requests.Session() as session:
        session.trust_env = False
        key = {"Authorization": f"Bearer {KEY}"}
        answer = session.post(f"{url}/api/ingest", body(*events), headers=key, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def gotten(url: str, path: str) -> Any:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"{url}{path}", timeout=30).json()


def test_two_processes_write_at_once_and_both_show_all_of_it(two, open_store, database_url):
    told = [batches(writer) for writer in range(2)]

    def write(place: int) -> int:
        own, other = two[place][1], two[1 - place][1]
        accepted = 0
        for events in told[place]:
            accepted += posted(own, events)["accepted"]
            # A load balancer sends what was not answered to the other one.
            again = [event for event in events if "queue" not in event]
            assert posted(other, again) == {"accepted": 0, "duplicates": len(again)}
        return accepted

    with ThreadPoolExecutor(2) as threads:
        accepted = sum(threads.map(write, range(2)))
    sent = [event for writer in told for batch in writer for event in batch]
    assert accepted == len(sent)
    checked(open_store({"database_url": database_url}), sent)
    shown = [gotten(url, "/api/jobs?limit=200") for _, url in two]
    assert shown[0] == shown[1]
    tasks = {event["job"]["externalId"] for event in sent if "job" in event}
    assert {one["id"] for one in shown[0]["jobs"]} == tasks
    assert len(shown[0]["jobs"]) == len(tasks)
    for process, _ in two:
        process.stop()
        assert not process.matching("Traceback"), process.output()


def test_a_page_of_one_process_hears_of_what_another_took_in(two):
    (_, writes), (_, shows) = two
    with requests.Session() as session:
        session.trust_env = False
        with session.get(f"{shows}/api/live", stream=True, timeout=10) as live:
            lines = (line for line in live.iter_lines() if line.startswith(b"data:"))
            assert json.loads(next(lines)[5:]) == {"seq": 0}
            posted(writes, [job("t", "queued")])
            assert json.loads(next(lines)[5:]) == {"seq": 1}
    assert [shown["id"] for shown in gotten(shows, "/api/jobs")["jobs"]] == ["t"]


def test_it_hears_by_a_notification_and_not_only_by_looking(
    postgres, database_name, database_url, collector, monkeypatch
):
    monkeypatch.setattr(application, "_SOON", 3600.0)
    writes, shows = (collector(database_url=database_url) for _ in range(2))
    wait_for(lambda: len(listeners(postgres, database_name)) == 2, 20, "both to listen")
    for number in range(1, 4):
        writes.post_events([job(f"t-{number}", "queued")])
        wait_for(
            lambda seq=number: shows.get("/api/tick").json()["seq"] >= seq, 10, "the notification"
        )


# --- what cannot be opened ------------------------------------------------------------------------


def test_a_database_that_cannot_be_reached_is_told_without_its_password(postgres):
    for url in (
        "postgresql://u:secret-word@127.0.0.1:1/x",
        postgres.url("no_such_database").replace("sluice@", "sluice:secret-word@"),
        postgres.url().replace("sluice@", "nobody:secret-word@"),
        postgres.url().replace("sluice@", "sluice:secret-word@") + "?secret-word=1",
        "postgresql://u:secret-word@h:port/x",
    ):
        with pytest.raises(BadOption) as found:
            Database(Options(database_url=url))
        told = str(found.value)
        assert ":secret-word" not in told
        assert "\n" not in told
        assert "database" in told


def test_without_its_driver_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(BadOption, match=r"sluice-sdk\[postgres\]"):
        Database(Options(database_url="postgresql://h/d"))


def test_options_in_the_url_are_kept_beside_its_own(schema_url):
    name = schema_url.rpartition("%3D")[2]
    one = Database(Options(database_url=schema_url))
    assert "sluice_tasks" in sa.inspect(one.reading).get_table_names(schema=name)
    with one.reading.begin() as connection:
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "30s"
    one.close()
