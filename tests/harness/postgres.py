"""A PostgreSQL server of our own: its files, its port and its processes are all private.

Nothing of it is durable: it must only survive an orderly restart.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.harness.ports import HOST, free_port
from tests.harness.processes import Process
from tests.harness.waiting import wait_for

NO_POSTGRES = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
_USER = "sluice"
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, the newest one; None where there is none.

    Debian keeps them out of the way of its own wrappers, each version in a folder.
    """
    found = [*Path("/usr/lib/postgresql").glob("*/bin")]
    found.sort(key=lambda folder: int(folder.parent.name) if folder.parent.name.isdecimal() else 0)
    if (initdb := shutil.which("initdb")) is not None:
        found.insert(0, Path(initdb).resolve().parent)
    usable = [one for one in found if os.access(one / "initdb", os.X_OK)]
    return usable[-1] if usable else None


class Postgres:
    """One server.  PostgreSQL refuses to run as root: then it runs as somebody else."""

    def __init__(self) -> None:
        folder = programs()
        if folder is None:
            raise FileNotFoundError(NO_POSTGRES)
        self._programs = folder
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="sluice-postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = _unprivileged()
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            # It becomes the program, so that its process is the one that we know.
            self._as_user = [
                *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"),
                *("--clear-groups", "--"),
            ]
        self._env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        self._server: Process | None = None

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [*self._as_user, str(self._programs / program), *arguments]

    def start(self, timeout: float = 60.0) -> None:
        """Start it, make its files first if there are none, and wait until it takes connections."""
        data = self._folder / "data"
        if not data.exists():
            subprocess.run(
                self._command(
                    *("initdb", "--pgdata", str(data), "--username", _USER, "--auth=trust"),
                    *("--encoding=UTF8", "--locale=C", "--no-sync"),
                ),
                env=self._env,
                cwd=self._folder,
                check=True,
                capture_output=True,
            )
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        settings.append(f"-cport={self.port}")
        server = Process(
            self._command("postgres", "-D", str(data), *settings),
            env=self._env,
            cwd=self._folder,
            name="postgres",
        )
        self._server = server

        def ready() -> bool:
            if not server.running:
                raise AssertionError(server.output())
            with contextlib.suppress(psycopg.OperationalError), self.connection():
                return True
            return False

        wait_for(ready, timeout, lambda: f"PostgreSQL to start\n{server.output()}")

    def stop(self, timeout: float = 30.0) -> None:
        """End it in order, with all connections; what is in it stays for the next start."""
        self._end(signal.SIGINT, timeout)

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it at once, and remove all its files.

        Not by SIGKILL, which would leave its shared memory behind.
        """
        self._end(signal.SIGQUIT, 30.0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, sig: signal.Signals, timeout: float) -> None:
        server, self._server = self._server, None
        if server is not None:
            if server.running:
                server.stop(sig, timeout)
            server.kill()

    def url(self, database: str = "postgres") -> str:
        """Where a database of it is."""
        return f"postgresql://{_USER}@{HOST}:{self.port}/{database}"

    @contextlib.contextmanager
    def connection(self, database: str = "postgres") -> Iterator[psycopg.Connection[Any]]:
        """A connection in which each statement is a transaction of its own."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as one:
            yield one

    def query(self, statement: str, parameters: Sequence[Any] = (), *, database: str) -> list[Any]:
        """The rows of a statement."""
        with self.connection(database) as connection:
            return connection.execute(statement.encode(), parameters).fetchall()

    def terminate(self, database: str, like: str) -> int:
        """End all connections to a database whose last statement was like this.  How many."""
        rows = self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND query LIKE %s AND pid <> pg_backend_pid()",
            (database, like),
            database="postgres",
        )
        return sum(ended for (ended,) in rows)


def _unprivileged() -> pwd.struct_passwd:
    """Somebody who is not root."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    msg = "neither 'postgres' nor 'nobody' is a user of this machine"
    raise LookupError(msg)


@contextlib.contextmanager
def postgres_space(server: Postgres) -> Iterator[str]:
    """The name of an empty database, which goes when the block ends."""
    name = f"test_{secrets.token_hex(6)}"
    quoted = sql.Identifier(name)
    with server.connection() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(quoted))
    yield name
    with server.connection() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))


@contextlib.contextmanager
def postgres_schema(server: Postgres) -> Iterator[str]:
    """The URL of an empty schema: a hundredth of what a database takes, which is 0.2 s."""
    name = f"test_{secrets.token_hex(6)}"
    quoted = sql.Identifier(name)
    with server.connection() as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(quoted))
    yield f"{server.url()}?options=-csearch_path%3D{name}"
    with server.connection() as connection:
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(quoted))
