"""Opening the database: SQLite in a folder that goes away, SQLite in a file, or PostgreSQL.

*In memory* is SQLite in a private folder on tmpfs: readers do not wait for the writer there
(WAL), as they would with one shared connection, and a folder that a killed collector left is
removed by the next one.  A folder's owner holds a lock that dies with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from sluice.collector.options import BadOption, Options
from sluice.collector.schema import FACTS, VERSION, facts, metadata

_PREFIX: Final = "sluice-dev-"
_LOCK: Final = "lock"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108  tmpfs on Linux; elsewhere the folder for such files
#: What one process may hold of PostgreSQL's connections besides the writer's.
_READERS: Final = 4
#: The number that collectors agree on to write one after the other.
WRITE_LOCK: Final = 0x51_7C_1C_E0


class Database:
    """Two engines on one database: one that writes, and one that cannot.

    Raises :class:`BadOption` where it cannot be opened, or is of another version.
    """

    def __init__(self, options: Options) -> None:
        self._folder: str | None = None
        self._lock: int | None = None
        self.is_postgres = options.database_url is not None
        if options.database_url is not None:
            self.url = _postgres(options.database_url)
            # A password may also stand in its query.
            self.where = (
                f"PostgreSQL ({self.url.database or ''} on {self.url.host or 'its socket'})"
            )
        else:
            path = options.db
            if path is None:
                path = self._temporary(2 * options.max_bytes) / "events.db"
            self.where = "in memory" if options.db is None else str(path)
            self.url = sa.URL.create("sqlite+pysqlite", database=str(path))
        try:
            if not self.is_postgres:
                _private(Path(self.url.database or ""))
            self.writing = self._engine(writes=True)
            self.reading = self._engine(writes=False)
            with self.write() as connection:
                metadata.create_all(connection)
                _check_version(connection)
        except ImportError as error:
            self.close()
            raise BadOption(
                "PostgreSQL needs psycopg, which this Python does not have or cannot load."
                ' Install it with: pip install "sluice-sdk[postgres]"'
            ) from error
        except (sa.exc.SQLAlchemyError, OSError) as error:
            self.close()
            raise BadOption(f"The database {self.where} cannot be used: {_short(error)}") from error
        except BadOption:
            self.close()
            raise

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that no other one writes beside, in any process."""
        with self.writing.begin() as connection:
            if self.is_postgres:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:n)"), {"n": WRITE_LOCK})
            yield connection

    def close(self) -> None:
        """Close all connections; what was in memory is gone."""
        for name in ("writing", "reading"):
            engine = getattr(self, name, None)
            if engine is not None:
                engine.dispose()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _temporary(self, room: int) -> Path:
        """A new folder with this many bytes of room, on tmpfs where that has them."""
        elsewhere = Path(tempfile.gettempdir())
        for parent in (_MEMORY, elsewhere):
            _sweep(parent)
        # A container has 64 MB there, where nobody asked for more.
        parent = _MEMORY if _room(_MEMORY) >= min(room, _room(elsewhere)) else elsewhere
        self._folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        folder = Path(self._folder)
        self._lock = os.open(folder / "new", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (folder / "new").rename(folder / _LOCK)  # nobody who sweeps finds it before it is locked
        return folder

    def _engine(self, *, writes: bool) -> sa.Engine:
        if self.is_postgres:
            settings = "-c statement_timeout=30000 -c lock_timeout=15000"
            if given := self.url.query.get("options"):
                settings = f"{given if isinstance(given, str) else ' '.join(given)} {settings}"
            if not writes:
                settings += " -c default_transaction_read_only=on"
            return sa.create_engine(
                self.url,
                pool_size=1 if writes else _READERS,
                max_overflow=0,
                pool_pre_ping=True,
                connect_args={"options": settings, "connect_timeout": 10},
            )
        engine = sa.create_engine(
            self.url,
            pool_size=1 if writes else _READERS,
            max_overflow=0,
            poolclass=sa.QueuePool,
            connect_args={"timeout": 15.0, "check_same_thread": False},
        )
        sa.event.listen(engine, "connect", _writer if writes else _reader)
        begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine


def _writer(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-65536"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("PRAGMA wal_autocheckpoint=4000")


def _reader(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA cache_size=-32768")


def _postgres(url: str) -> sa.URL:
    try:
        return sa.make_url(url).set(drivername="postgresql+psycopg")
    except (sa.exc.ArgumentError, ValueError):
        raise BadOption("--database-url cannot be read as a URL.") from None


def _check_version(connection: sa.Connection) -> None:
    found = connection.scalar(sa.select(facts.c.n).where(facts.c.name == "version"))
    if found is None:
        start = {"version": VERSION, "since": time.time()}
        rows = [{"name": name, "n": float(start.get(name, 0))} for name in FACTS]
        connection.execute(facts.insert(), rows)
    elif found != VERSION:
        raise BadOption(
            f"The database is of version {found:g}, and this collector writes version {VERSION}."
            " Give it another file or database."
        )


def _sweep(parent: Path) -> None:
    """Remove folders whose owners have died: their locks are free."""
    for folder in parent.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _room(folder: Path) -> int:
    """Bytes that can be written there."""
    try:
        return shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else -1
    except OSError:
        return -1


def _private(path: Path) -> None:
    """Make the file for its owner alone: errors of tasks hold what others shall not read.

    What SQLite puts beside it gets the same mode.  One that is there already stays as it is.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _short(error: Exception) -> str:
    """An error of a driver's in one line, which never holds the password."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines() or [""]
    return f"{lines[0]}."
