"""`before_send`: the user's own last word on every event, on the sender's thread.

Guarantees: it never runs in a task or an event loop; an exception out of it, an answer that
is no event, and a slow run are survived, counted and told of; what it could not decide on
is not sent, because it was there to keep something back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from sluice.batch import with_event_id
from sluice.config import message
from sluice.events import Event
from sluice.notices import Notices
from sluice.ring import Record

#: Seconds.  A run that takes longer holds the other events up.
SLOW: Final = 0.1

_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


class Review:
    """Asks `before_send` about records; what it lets pass is a record with a new payload."""

    def __init__(
        self,
        before_send: Callable[[dict[str, Any]], dict[str, Any] | None],
        notices: Notices,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._before_send = before_send
        self._notices = notices
        self._clock = clock
        #: Runs that failed, or answered with something that is no event.
        self.failed = 0
        #: Runs that took longer than `SLOW`.
        self.slow = 0

    def __call__(self, record: Record, ring_id: int) -> Record:
        """The record to send instead; its payload is empty where nothing is to be sent."""
        begin = self._clock()
        payload = b""
        try:
            event = _decode(with_event_id(record, ring_id))
            subject = "job" if "job" in event else "worker"
            event_id = event[subject]["extensions"]["eventId"]
            answer = self._before_send(event)
            if answer is not None:
                payload = _encoded(answer, event_id)
        except BaseException as error:  # noqa: BLE001  it is not our code
            self.failed += 1
            self._say(f"before_send failed ({type(error).__name__})", "That event was not sent")
        if self._clock() - begin > SLOW:
            self.slow += 1
            self._say(
                f"before_send took more than {SLOW:g} s for one event", "The others wait for it"
            )
        return Record(payload, record.seq, record.end, relayed=True)

    def _say(self, happened: str, meaning: str) -> None:
        self._notices.add(
            happened,
            message(happened, f"{meaning}, the worker is not affected; mend the function"),
            once=False,
        )


def _encoded(answer: dict[str, Any], event_id: str) -> bytes:
    """The wire's JSON of an answer, in the wire's order and with the id that it came with.

    Raises :class:`msgspec.ValidationError` for what is no event.
    """
    event = msgspec.convert(answer, Event)
    subject = event.job or event.worker
    if subject is None:
        raise TypeError("neither a job nor a worker")
    subject.extensions = {**subject.extensions, "eventId": event_id}
    return _encode(event)
