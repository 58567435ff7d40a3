"""A receiver in a process of its own, as the harness sees it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from typing import Any, Final, Self
from urllib.parse import urlsplit

from benchmarks.peers import Peer
from tests.harness.processes import ROOT

#: Seconds between two looks while it goes quiet.
_LOOK: Final = 0.1
#: Reading a hundred thousand events takes a second; a machine that is busy needs more.
_CONTROL_TIMEOUT: Final = 120.0


class Reception:
    """The receiver of one worker: started by the ``with`` block, ended with it.

    For a peer that delivers to the broker it listens there, and must be started before the
    worker is: what is published before that is heard by nobody.  And after the broker was
    emptied, which would take the listener's group along.
    """

    def __init__(self, peer: Peer, broker_url: str = "") -> None:
        source = {"celery events": "--celery-events", "stream": "--stream"}.get(peer.way)
        self._command = [sys.executable, "-m", "benchmarks.receiver"]
        if source:
            self._command += [source, broker_url]
        self._process: subprocess.Popen[str] | None = None
        #: What the peer delivers to.
        self.url = ""
        self._control = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        told = self._process.stdout.readline()
        if not told:
            self.close()
            raise RuntimeError("the receiver did not start; it says why above")
        where = json.loads(told)
        self.url = where["url"]
        self._control = urlsplit(where["control"]).netloc
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Reception {self.url or 'not started'}>"

    def totals(self) -> dict[str, Any]:
        """``state``, ``requests``, ``refused``, ``bytes``, ``body_bytes``, ``connections``."""
        return self._ask("totals")

    def counts(self) -> dict[str, Any]:
        """The totals, and ``tasks``: how many distinct ones were told as what.

        Also ``events`` (told of tasks), ``repeated`` (of these), ``other``, ``unreadable`` and
        the ``first_error``.  The receiver answers nobody while it reads: ask when it is quiet.
        """
        return self._ask("counts")

    def reset(self) -> None:
        """Forget what came so far."""
        self._ask("reset")

    def become(self, state: str) -> None:
        """``up``, ``slow``, ``errors`` or ``black-hole``.  Raises :class:`ValueError`."""
        if self._ask(f"state/{state}")["state"] != state:
            raise ValueError(f"a receiver is never {state!r}")

    def settle(self, quiet: float, timeout: float) -> dict[str, Any]:
        """Wait until nothing was told of a task for `quiet` seconds, at most `timeout`.

        Gives the counts.  Heartbeats and the like do not matter: some never end.  The longest
        pause that a peer makes by itself is 5 s (OpenTelemetry, sluice-celery).
        """
        deadline = time.monotonic() + timeout
        counts, since = self.counts(), time.monotonic()
        while (now := time.monotonic()) < deadline and now - since < quiet:
            time.sleep(_LOOK)
            seen = self.counts()
            if seen["events"] != counts["events"]:
                since = time.monotonic()
            counts = seen
        return counts

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            process, self._process = self._process, None
            process.communicate()

    def _ask(self, what: str) -> dict[str, Any]:
        # http.client: no proxy of the environment can come between.
        connection = http.client.HTTPConnection(self._control, timeout=_CONTROL_TIMEOUT)
        try:
            connection.request("POST", f"/_bench/{what}")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()
