"""What ``sluice dev`` was told, checked before anything starts."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Where the SDK looks for a collector with ``SLUICE_DEV=1``.
PORT: Final = 5580
LOOPBACK: Final = "127.0.0.1"
GIB: Final = 1024**3
DAY: Final = 86_400.0

#: What the SDK takes for a key.
_KEY: Final = re.compile(r"sk_[A-Za-z0-9._~+/=-]{1,500}")
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~-]{8,200}")


class BadOption(ValueError):
    """An option cannot be used; says which, why, and what is accepted."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run the collector.  Raises :class:`BadOption`."""

    host: str = LOOPBACK
    #: 0: any free one.
    port: int = PORT
    #: A file of SQLite's to keep everything in; None: it is gone when the collector ends.
    db: Path | None = None
    #: ``postgresql://...``: several collectors share it.
    database_url: str | None = None
    #: The most tasks, bytes of events, and seconds that are kept; the oldest go first.
    max_tasks: int = 200_000
    max_bytes: int = GIB
    max_age: float = 7 * DAY
    #: Events a second that are taken before 429 is answered; 0: any number.
    rate_limit: float = 0.0
    #: The one key that is accepted; None: anything that looks like one.
    api_key: str | None = None
    #: What a browser or a command must show; None: one is made where others can connect.
    token: str | None = None
    #: Host names, besides those of this machine's loopback, by which it may be asked.
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_place()
        self._check_bounds()
        self._check_access()

    def _check_place(self) -> None:
        if not self.host or any(c <= " " for c in self.host):
            raise BadOption(f"--host is {self.host!r}. Accepted is an address such as 127.0.0.1.")
        if not 0 <= self.port <= 65_535:
            raise BadOption(f"--port is {self.port}. Accepted is a number from 0 to 65535.")
        if self.db is not None and self.database_url is not None:
            raise BadOption("--db and --database-url name two places. Give one of them.")
        if self.db is not None and str(self.db) == ":memory:":
            raise BadOption("--db is :memory:. Leave it out, and everything is kept in memory.")
        if self.database_url is not None and not self.database_url.startswith(
            ("postgresql://", "postgres://", "postgresql+psycopg://")
        ):
            raise BadOption(
                "--database-url does not start with postgresql://."
                " Accepted is a URL of PostgreSQL's; for a file of SQLite's there is --db FILE."
            )

    def _check_bounds(self) -> None:
        if not 1 <= self.max_tasks <= 100_000_000:
            raise BadOption(f"--max-tasks is {self.max_tasks}. Accepted is 1 to 100000000.")
        if not 1_000_000 <= self.max_bytes <= 2**50:
            raise BadOption(f"--max-bytes is {self.max_bytes}. Accepted is 1000000 (1 MB) or more.")
        if not 1 <= self.max_age <= 3650 * DAY:
            raise BadOption(
                f"--max-age is {self.max_age:g} s. Accepted is 1 second to ten years (3650d)."
            )
        if self.rate_limit != 0 and not 1 <= self.rate_limit <= 1e9:
            raise BadOption(
                f"--rate-limit is {self.rate_limit:g}. Accepted is 1 event a second or more,"
                " and 0 for no limit."
            )

    def _check_access(self) -> None:
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            raise BadOption("--api-key is no key. Accepted is a text that starts with 'sk_'.")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise BadOption(
                "--token cannot be used. Accepted are 8 to 200 letters, digits, '.', '_', '~', '-'."
            )
        for name in self.allowed_hosts:
            if not (_NAME.fullmatch(name) or _is_address(name)):
                raise BadOption(
                    f"--allowed-host is {name!r}. Accepted is a host's name or address, without"
                    " http://, a port or brackets."
                )

    @property
    def is_open(self) -> bool:
        """Whether others than this machine can connect, by themselves or by what is before it."""
        return not all(is_loopback(name) for name in (self.host.strip("[]"), *self.allowed_hosts))


def is_loopback(name: str) -> bool:
    """Whether a host is this machine for itself."""
    return name.lower() == "localhost" or (
        _is_address(name) and ipaddress.ip_address(name).is_loopback
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
