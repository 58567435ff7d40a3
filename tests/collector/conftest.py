"""A whole collector in this process, its server in a thread; and places to keep things in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from sluice.collector import schema
from sluice.collector.application import Collector
from sluice.collector.database import Database
from sluice.collector.options import Options
from sluice.collector.server import server
from sluice.collector.store import Store, Taken
from tests.collector.wire import Wire, body, taken
from tests.harness import wait_for
from tests.harness.missing import missing
from tests.harness.postgres import (
    NO_POSTGRES,
    Postgres,
    postgres_schema,
    postgres_space,
    programs,
)

KEY = "sk_test"


class Running:
    """A collector that serves; `collector` and `server` are its parts."""

    def __init__(self, **options: Any) -> None:
        self.collector = Collector(Options(**{"port": 0} | options))
        self.port = 0
        self.server = server(self.collector, self._listens)
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy of whoever runs the tests
        self._thread = threading.Thread(target=self.server.run, name="collector", daemon=True)
        self._thread.start()
        wait_for(lambda: self.port or not self._thread.is_alive(), 20, "the collector to listen")
        assert self.port, "the collector ended before it listened"
        if self.collector.token is not None:
            self.session.cookies.set(f"sluice_{self.port}", self.collector.token)

    def _listens(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        """What it answers; the keywords are those of requests."""
        return self.session.get(self.url + path, **{"timeout": 20} | kwargs)

    def post(self, path: str, content: bytes = b"", **kwargs: Any) -> requests.Response:
        """What it answers to a body."""
        return self.session.post(self.url + path, content, **{"timeout": 20} | kwargs)

    def post_events(self, events: Iterable[Wire], key: str | None = None) -> requests.Response:
        """Send events as the SDK does, under a key that is accepted if none is given."""
        headers = {
            "Authorization": f"Bearer {key or self.collector.api_key or KEY}",
            "Content-Type": "application/json",
        }
        return self.post("/api/ingest", body(*events), headers=headers)

    def close(self) -> None:
        """End it as a signal would, and wait until it has ended.  Safe to call again."""
        self.session.close()
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the collector did not end"


class Kept:
    """A store with a clock of its own, and what is in its tables."""

    def __init__(self, place: dict[str, Any]) -> None:
        self.now = 1_800_000_000.0
        self.database = Database(Options(**place))
        self.store = Store(self.database, clock=lambda: self.now)

    def take(self, *events: Wire) -> Taken:
        """One batch."""
        (result,), _ = self.store.take([taken(events)])
        return result

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        """All rows of a table."""
        with self.database.reading.begin() as connection:
            return [dict(row) for row in connection.execute(sa.select(table)).mappings()]

    def tasks(self) -> dict[str, dict[str, Any]]:
        """The rows of tasks by id."""
        return {row["id"]: row for row in self.rows(schema.tasks)}

    def states(self) -> dict[str, str]:
        """The states of tasks by id."""
        return {name: row["state"] for name, row in self.tasks().items()}

    def facts(self) -> dict[str, float]:
        """The counts by name."""
        return {row["name"]: row["n"] for row in self.rows(schema.facts)}

    def close(self) -> None:
        """Close the database.  Safe to call again."""
        self.database.close()


@pytest.fixture
def collector() -> Iterator[Callable[..., Running]]:
    """Start a collector: `collector(max_tasks=5)` takes the fields of `Options`.

    It has `url`, `get(path)`, `post_events(events)` and `close()`; all are closed after the test.
    """
    started: list[Running] = []

    def start(**options: Any) -> Running:
        started.append(Running(**options))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def _shared() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()


@pytest.fixture
def one(_shared: Running) -> Running:
    """A collector with nothing in it, which the tests of a module share: it costs them no start."""
    assert _shared.post("/api/clear").status_code == 200
    return _shared


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it loudly when PostgreSQL was left out."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_POSTGRES in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.section("POSTGRESQL WAS NOT TESTED", sep="!", red=True, bold=True)
        terminalreporter.line(f"{count} tests were skipped: {NO_POSTGRES}")


# --- places to keep things ------------------------------------------------------------------------


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server while the block runs; skipped where there is none, and failed in CI."""
    if programs() is None:
        missing(NO_POSTGRES)
    one = Postgres()
    try:
        one.start()
        yield one
    finally:
        one.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL server."""
    with postgres_server() as one:
        yield one


@pytest.fixture
def database_name(postgres: Postgres) -> Iterator[str]:
    """The name of an empty database of the PostgreSQL server."""
    with postgres_space(postgres) as name:
        yield name


@pytest.fixture
def database_url(postgres: Postgres, database_name: str) -> str:
    """The URL of an empty database of PostgreSQL's."""
    return postgres.url(database_name)


@pytest.fixture
def schema_url(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty schema: quicker to have than a database."""
    with postgres_schema(postgres) as url:
        yield url


@pytest.fixture(params=["memory", "file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Each place where a collector can keep things in turn, as fields of `Options`."""
    if request.param == "postgres":
        return {"database_url": request.getfixturevalue("schema_url")}
    return {"db": tmp_path / "events.db"} if request.param == "file" else {}


@pytest.fixture
def open_store() -> Iterator[Callable[..., Kept]]:
    """Open a store: `open_store(place)`; closed after the test."""
    opened: list[Kept] = []

    def start(place: dict[str, Any]) -> Kept:
        opened.append(Kept(place))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def kept(open_store: Callable[..., Kept], place: dict[str, Any]) -> Kept:
    """A store in each place in turn."""
    return open_store(place)
