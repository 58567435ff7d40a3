"""Capture -> ring: an event becomes bytes and is written down.  This is the whole hot path.

Guarantees: `job()` and `worker()` never wait, and count every event that they were given,
also one that cannot be encoded.  They raise only what a signal handler raises while they
run, such as a soft time limit, and an :class:`OSError` where this process has no ring yet
and not even memory for one is to be had.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import getpid
from typing import Final, TypeVar

from sluice.bell import Bell
from sluice.events import Job, Worker, encode_job, encode_worker
from sluice.notices import Notices
from sluice.ring import Ring

_T = TypeVar("_T", Job, Worker)


class Recorder:
    """Writes events into this process's ring; `open_ring` is called when there is none yet."""

    def __init__(
        self,
        connection_id: str,
        environment: str | None,
        notices: Notices,
        open_ring: Callable[[], None],
        serve: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection_id: Final = connection_id
        #: A tag that every event carries.
        self.environment: Final = environment
        self._open_ring = open_ring
        self._serve = serve
        self.notices: Final = notices
        #: Set by the client, which also takes them away at a fork.
        self.ring: Ring | None = None
        self.bell: Bell | None = None
        #: The process whose ring it is: uWSGI forks without telling Python.
        self.pid = getpid()
        #: There is a ring, and nobody sends from it: `serve` is asked to, with each event.
        self.unserved = False
        #: After `shutdown()` events are ignored.
        self.closed = False
        #: Events that came while there was no ring and none could be had.
        self.missed = 0
        # Partials and not methods: a call less for every event.
        #: Record what happened to a task, at a Unix time in seconds.
        self.job: Final[Callable[[float, Job], None]] = partial(self._record, encode_job)
        #: Record the state of a worker, at a Unix time in seconds.
        self.worker: Final[Callable[[float, Worker], None]] = partial(self._record, encode_worker)

    def _record(self, encode: Callable[[str, float, _T], bytes], at: float, what: _T) -> None:
        ring = self.ring
        if ring is None or self.pid != getpid():
            ring = self._ring_now()
            if ring is None:
                return
        if self.environment is not None:
            what.extensions["environment"] = self.environment
        try:
            payload = encode(self._connection_id, at, what)
        except (TypeError, ValueError, OverflowError, OSError) as error:
            self._unencodable(ring, error)
            return
        if ring.append(payload) and self.bell is not None:
            self.bell.ring()
        if self.unserved:
            self._serve()

    def _ring_now(self) -> Ring | None:
        if self.closed:
            return None
        try:
            self._open_ring()
        finally:
            if self.ring is None:
                self.missed += 1
        return self.ring

    def _unencodable(self, ring: Ring, error: Exception) -> None:
        ring.count_unencodable()
        kind = type(error).__name__
        self.notices.add(
            f"unencodable {kind}",
            f"[sluice] An event could not be encoded ({kind}) and was skipped. "
            "Further ones are skipped too, and counted in sluice.stats().dropped_by.",
        )
