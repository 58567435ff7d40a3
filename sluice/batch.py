"""A request's body out of records: a join of bytes, not a second encoding.

A record is one event's JSON and ends with its ``extensions``, never empty, so the event id
goes in before the last three braces.  It cannot be there earlier: the sequence number is only
known once the record is in its ring.  Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sluice.ring import Record

#: The most that a body is longer than its records: for each its id and a comma, and the rest.
OVERHEAD_OF_EVENT: Final = 64
#: What an event ends with: the end of ``extensions``, of ``job`` or ``worker``, of itself.
_TAIL: Final = b"}}}"
_DROPPED: Final = b',"droppedEvents":%d}}}'


def with_event_id(record: Record, ring_id: int) -> bytes:
    """The record's JSON with ``extensions.eventId``, unless a relay has put one in already."""
    return _with_id(record, _id_prefix(ring_id))


def _id_prefix(ring_id: int) -> bytes:
    return b',"eventId":"%016x-' % ring_id


def _with_id(record: Record, prefix: bytes) -> bytes:
    if record.relayed:
        return record.payload
    return b'%b%b%d"}}}' % (record.payload[:-3], prefix, record.seq)


def body(records: Sequence[Record], ring_id: int, dropped: int = 0) -> bytes:
    """The body of a request with these records, at least one.

    `dropped` is the number of events lost since the last report; the first event carries
    it in ``extensions.droppedEvents``.
    """
    prefix = _id_prefix(ring_id)
    events = [_with_id(record, prefix) for record in records]
    if dropped:
        events[0] = events[0][: -len(_TAIL)] + _DROPPED % dropped
    return b'{"events":[%b]}' % b",".join(events)
