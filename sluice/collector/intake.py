"""A request's body -> its events, checked by the types of the wire; and what is wrong with it.

Good events of a batch are kept when others are refused: the answer is a 400 that names each
bad field, and a sender that halves the batch finds what it sent before counted as duplicates.
Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from sluice.collector.story import seconds
from sluice.events import Event

#: The contract's limits for one request.
BODY_LIMIT: Final = 1024 * 1024
EVENTS_LIMIT: Final = 1000
#: Bad events that an answer names, and bad fields of each.
_MOST_NAMED: Final = 100
_MOST_FIELDS: Final = 20

_SUBJECTS: Final = {
    "job_state_change": "job", "worker_state_change": "worker", "queue_snapshot": "queue",
}  # fmt: skip
#: Something that is accepted in the place of what was not, so that the next fault is found.
_STAND_INS: Final[dict[str, object]] = {
    ".type": "queue_snapshot", ".timestamp": "2000-01-01T00:00:00Z", ".framework": "celery",
    ".connectionId": "00000000-0000-4000-8000-000000000000",
    ".job.externalId": "x", ".job.name": "x", ".job.state": "unknown",
    ".worker.externalId": "x", ".worker.hostname": "x", ".worker.pid": 1,
    ".worker.state": "offline", ".queue.name": "x",
}  # fmt: skip
#: A UUID with its hyphens or without; :class:`uuid.UUID` takes more for one.
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}")
_PLACE: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>.*)`")
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")


class _Envelope(msgspec.Struct):
    events: list[msgspec.Raw]


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_event = msgspec.json.Decoder(Event).decode


class Refusal(Exception):
    """The whole body is refused."""

    def __init__(self, status: int, code: str, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.path = status, code, message, path


@dataclass(slots=True, frozen=True)
class Fault:
    """A bad field: of which event, where in it, and what is wrong."""

    index: int
    path: str
    message: str


@dataclass(slots=True)
class Batch:
    """The good events of a body, each with its bytes, and what is wrong with the others."""

    events: list[tuple[Event, bytes]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    #: How many events were refused.
    refused: int = 0


def read(body: bytes) -> Batch:
    """The events of a body.  Raises :class:`Refusal` where it is none, or too large."""
    if len(body) > BODY_LIMIT:
        raise Refusal(413, "PAYLOAD_TOO_LARGE", f"A body has at most {BODY_LIMIT} bytes.")
    try:
        raws = _decode_envelope(body).events
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what, path = _told(error)
        raise Refusal(400, "VALIDATION_ERROR", what, f"${path}") from None
    if len(raws) > EVENTS_LIMIT:
        raise Refusal(413, "PAYLOAD_TOO_LARGE", f"A request has at most {EVENTS_LIMIT} events.")
    batch = Batch()
    for index, raw in enumerate(raws):
        event, wrong = _checked(raw)
        if event is None:
            batch.refused += 1
            if batch.refused <= _MOST_NAMED:
                batch.faults += [Fault(index, path, what) for path, what in wrong.items()]
        else:
            batch.events.append((event, bytes(raw)))
    return batch


def _checked(raw: msgspec.Raw) -> tuple[Event | None, dict[str, str]]:
    """The event, or path -> what is wrong."""
    try:
        str(raw, "utf-8")  # also what is not decoded, since the whole is kept as it came
        event = _decode_event(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None, _bad_fields(raw, error)
    wrong = _semantic_faults(event)
    return (None if wrong else event), wrong


def _semantic_faults(event: Event) -> dict[str, str]:
    """What the types cannot say."""
    wrong: dict[str, str] = {}
    if seconds(event.timestamp) is None:
        wrong["timestamp"] = "Expected a time from the year 1 to the year 9999 in UTC"
    if not _UUID.fullmatch(event.connection_id):
        wrong["connectionId"] = "Expected a UUID"
    wanted = _SUBJECTS[event.type]
    for name in _SUBJECTS.values():
        there = getattr(event, name) is not None
        if there and name != wanted:
            wrong[name] = f"Expected nothing here in a {event.type}, which has a `{wanted}`"
        elif not there and name == wanted:
            wrong[name] = f"Expected a `{wanted}` in a {event.type}"
    return wrong


def _bad_fields(raw: msgspec.Raw, error: Exception) -> dict[str, str]:
    """Path -> what is wrong.  msgspec names one fault at a time, so each is mended in a copy."""
    what, path = _told(error)
    try:
        value: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {path.lstrip("."): what}
    wrong: dict[str, str] = {}
    for _ in range(2 * _MOST_FIELDS):
        missing = _MISSING.fullmatch(what)
        if missing:
            path += f".{missing['name']}"
            what = "Required, and missing"
        wrong.setdefault(path.lstrip("."), what)
        if len(wrong) >= _MOST_FIELDS or not _mend(value, path):
            break
        try:
            event = msgspec.convert(value, Event)
        except msgspec.ValidationError as next_error:
            what, path = _told(next_error)
            continue
        for place, fault in _semantic_faults(event).items():
            if "type" not in wrong or place not in _SUBJECTS.values():  # nobody knows which it has
                wrong.setdefault(place, fault)
        break
    return wrong


def _mend(value: Any, path: str) -> bool:
    """Put something acceptable where `path` leads; False where that cannot be done."""
    path, _, _ = path.partition("[...]")  # a value of a map: the whole map goes
    steps: list[str | int] = [name or int(place) for name, place in _STEP.findall(path)]
    if not steps:
        return False
    try:
        for step in steps[:-1]:
            value = value[step]
        last = steps[-1]
        if isinstance(value, dict) and isinstance(last, str):
            if path in _STAND_INS and value.get(last) != _STAND_INS[path]:
                value[last] = _STAND_INS[path]
            else:
                value.pop(last)
        elif isinstance(value, list) and isinstance(last, int):
            value[last] = "x"  # the only lists that can be wrong are of names
        else:
            return False
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _told(error: Exception) -> tuple[str, str]:
    """What msgspec says is wrong, and where."""
    match = _PLACE.match(str(error))
    if match is None:
        return str(error), ""
    return match["what"], match["path"] or ""
