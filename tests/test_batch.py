"""Bodies: whatever the records are, the body is valid JSON with every event in order."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sluice.batch import body, with_event_id
from sluice.events import Envelope, encode_job, encode_worker
from sluice.ring import Record
from tests.doubles import JOBS, LAW, WORKERS
from tests.harness import CONNECTION_ID

RING_IDS = st.integers(1, 2**63 - 1)
PAYLOADS = JOBS.map(lambda job: encode_job(CONNECTION_ID, 1.5, job)) | WORKERS.map(
    lambda worker: encode_worker(CONNECTION_ID, 1.5, worker)
)


@st.composite
def records(draw):
    """A record of this ring or, with its id in the payload, of a child's."""
    payload, seq = draw(PAYLOADS), draw(st.integers(0, 2**63))
    if not draw(st.booleans()):
        return Record(payload, seq, 0, relayed=False), None
    child, child_seq = draw(RING_IDS), draw(st.integers(0, 2**63))
    relayed = with_event_id(Record(payload, child_seq, 0, relayed=False), child)
    return Record(relayed, seq, 0, relayed=True), f"{child:016x}-{child_seq}"


def subject(event: dict) -> dict:
    return event.get("job") or event["worker"]


def plain(payload: bytes) -> dict:
    event = json.loads(payload)
    subject(event)["extensions"].pop("eventId", None)
    return event


@LAW
@given(made=st.lists(records(), min_size=1, max_size=5), ring_id=RING_IDS)
def test_a_body_has_every_event_in_order_with_its_id(made, ring_id):
    made_records = [record for record, _ in made]
    events = json.loads(body(made_records, ring_id))["events"]
    assert [plain(json.dumps(event)) for event in events] == [
        plain(record.payload) for record in made_records
    ]
    assert [subject(event)["extensions"]["eventId"] for event in events] == [
        child_id or f"{ring_id:016x}-{record.seq}" for record, child_id in made
    ]


@LAW
@given(
    made=st.lists(records(), min_size=1, max_size=3),
    ring_id=RING_IDS,
    dropped=st.integers(0, 2**63),
)
def test_the_first_event_and_no_other_says_how_many_were_dropped(made, ring_id, dropped):
    made_records = [record for record, _ in made]
    with_drops = json.loads(body(made_records, ring_id, dropped))["events"]
    said = [subject(event)["extensions"].pop("droppedEvents", 0) for event in with_drops]
    assert said == [dropped] + [0] * (len(made) - 1)
    assert with_drops == json.loads(body(made_records, ring_id))["events"]


@LAW
@given(made=st.lists(records(), min_size=1, max_size=3), dropped=st.integers(0, 2**31))
def test_a_receiver_takes_every_body(made, dropped):
    encoded = body([record for record, _ in made], 7, dropped)
    assert len(msgspec.json.decode(encoded, type=Envelope, strict=True).events) == len(made)


@LAW
@given(made=st.lists(records(), min_size=1, max_size=3), ring_id=RING_IDS)
def test_a_body_sent_again_is_the_same(made, ring_id):
    made_records = [record for record, _ in made]
    assert body(made_records, ring_id, 1) == body(made_records, ring_id, 1)


def test_no_drops_are_no_field():
    record = Record(b'{"job":{"extensions":{"a":1}}}', 3, 0, relayed=False)
    assert body([record], 0xABC) == (
        b'{"events":[{"job":{"extensions":{"a":1,"eventId":"0000000000000abc-3"}}}]}'
    )
    assert body([record], 0xABC, 2) == (
        b'{"events":[{"job":{"extensions":'
        b'{"a":1,"eventId":"0000000000000abc-3","droppedEvents":2}}}]}'
    )
