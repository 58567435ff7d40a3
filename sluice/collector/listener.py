"""What other processes change, heard through PostgreSQL.  Imported only where that is used."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Final

import psycopg
import sqlalchemy as sa

#: Seconds between two tries to connect, and between two looks at whether it shall end.
_AGAIN: Final = 1.0
_LOOK: Final = 0.25
#: Digits of a number that one of us tells; others may write to the same channel.
_MOST_DIGITS: Final = 18


class Listener:
    """A thread that hears what other processes change.  It outlives the loss of PostgreSQL."""

    def __init__(self, url: sa.URL, heard: Callable[[int], None]) -> None:
        self._url = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._heard = heard
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sluice-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell it to end; it does within a second."""
        self._ending.set()
        self._thread.join(2.0)

    def _work(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(psycopg.Error, OSError, RuntimeError):
                self._listen()
            self._ending.wait(_AGAIN)

    def _listen(self) -> None:
        with psycopg.connect(self._url, autocommit=True, connect_timeout=10) as connection:
            connection.execute("LISTEN sluice")
            while not self._ending.is_set():
                for notice in connection.notifies(timeout=_LOOK):
                    payload = notice.payload
                    if len(payload) <= _MOST_DIGITS and payload.isdecimal():
                        self._heard(int(payload))
