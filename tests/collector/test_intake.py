"""A body of bytes -> its events, and a name for everything that is wrong with it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.collector.intake import BODY_LIMIT, EVENTS_LIMIT, Batch, Refusal, read
from tests.collector.wire import Wire, body, job, queue, stamp, worker
from tests.doubles import LAW

AT = 1_700_000_000.0
TASK = job(
    "t-1", "failed", AT, queue="q", previousState="active", workerId="w@h", maxRetries=3,
    progress=0.5, error="boom", stacktrace="Traceback", createdAt=AT, startedAt=AT,
    completedAt=AT, scheduledFor=AT, parentId="p", rootId="r",
)  # fmt: skip
WORKER = worker(
    "w@h", "busy", AT, concurrency=2, activeJobs=1, queues=["a", "b"], metadata={"pool": "solo"},
    extensions={"activeTasks": [{"externalId": "t-1", "runtime": 1.5}]},
)  # fmt: skip
QUEUE = queue("q", AT, depth=1, consumers=2)
_GONE = object()


def changed(event: Wire, path: str, value: Any) -> Wire:
    """The event with one field more, less or other than it was."""
    event = copy.deepcopy(event)
    *steps, last = path.split(".")
    inner = event
    for step in steps:
        inner = inner[step]
    if value is _GONE:
        del inner[last]
    else:
        inner[last] = value
    return event


def paths(batch: Batch) -> list[str]:
    return [fault.path for fault in batch.faults]


def refused(content: bytes) -> Refusal:
    with pytest.raises(Refusal) as found:
        read(content)
    return found.value


# --- what is good ---------------------------------------------------------------------------------


def test_each_kind_of_event_is_taken_with_its_bytes():
    batch = read(body(TASK, WORKER, QUEUE))
    assert (batch.faults, batch.refused) == ([], 0)
    assert [json.loads(content) for _, content in batch.events] == [TASK, WORKER, QUEUE]
    (task, _), (member, _), (snapshot, _) = batch.events
    assert task.job is not None
    assert task.job.external_id == "t-1"
    assert member.worker is not None
    assert member.worker.metadata == {"pool": "solo"}
    assert snapshot.queue is not None
    assert snapshot.queue.depth == 1


def test_no_event_is_a_good_body_and_what_is_not_known_is_passed_over():
    assert read(b'{"events": [], "more": {"x": [1]}}').events == []
    assert not read(body(changed(TASK, "job.ofTheFuture", {"x": [1]}))).faults
    assert not read(body(changed(TASK, "ofTheFuture", None))).faults


@pytest.mark.parametrize(
    "connection", ["6F1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11", "6f1f64a76d5e4f6e9d0b2f6f3c1f7a11"]
)
def test_a_uuid_may_have_hyphens_or_none(connection):
    assert not read(body(changed(TASK, "connectionId", connection))).faults


# --- limits ---------------------------------------------------------------------------------------

LIMITS = [
    (TASK, "job.externalId", 512),
    (TASK, "job.workerId", 512),
    (TASK, "job.parentId", 512),
    (TASK, "job.rootId", 512),
    (TASK, "job.name", 1024),
    (TASK, "job.queue", 255),
    (TASK, "job.error", 10_000),
    (TASK, "job.stacktrace", 50_000),
    (WORKER, "worker.externalId", 512),
    (QUEUE, "queue.name", 255),
]


@pytest.mark.parametrize(("event", "path", "most"), LIMITS, ids=[one[1] for one in LIMITS])
def test_a_text_has_the_contracts_length_and_not_one_character_more(event, path, most):
    # Characters, not bytes: one of these has four.
    assert not read(body(changed(event, path, "\N{SNAKE}" * most))).faults
    assert paths(read(body(changed(event, path, "x" * (most + 1))))) == [path]


def test_a_body_has_the_contracts_size_and_not_one_byte_more():
    empty = body()
    full = empty + b" " * (BODY_LIMIT - len(empty))
    assert read(full).events == []
    found = refused(full + b" ")
    assert (found.status, found.code) == (413, "PAYLOAD_TOO_LARGE")
    assert str(BODY_LIMIT) in found.message


def test_a_request_has_the_contracts_number_of_events_and_not_one_more():
    # Bad ones are counted too: what is in them does not matter.
    events = b",".join([b"0"] * EVENTS_LIMIT)
    assert read(b'{"events": [%b]}' % events).refused == EVENTS_LIMIT
    found = refused(b'{"events": [%b,0]}' % events)
    assert (found.status, found.code) == (413, "PAYLOAD_TOO_LARGE")


# --- what is bad ----------------------------------------------------------------------------------

BAD: list[tuple[Wire, str, list[Any]]] = [
    (TASK, "type", ["job", "", None, 5, _GONE]),
    (TASK, "timestamp", ["", "yesterday", 1.5e9, None, _GONE, "0001-01-01T00:00:00+05:00"]),
    (TASK, "timestamp", ["2020-02-30T00:00:00Z", "9999-12-31T23:59:59-01:00"]),
    (TASK, "framework", ["Celery", "rq", None, _GONE]),
    (TASK, "connectionId", ["", "x", "0_" * 16, "{6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11}"]),
    (TASK, "connectionId", [5, None, _GONE, "6f1f64a7-6d5e4f6e-9d0b-2f6f3c1f7a11", "\u0660" * 32]),
    (TASK, "job", [5, "x", []]),
    (TASK, "job.externalId", ["", None, 5, _GONE]),
    (TASK, "job.name", ["", None, 5, _GONE]),
    (TASK, "job.state", ["lost", "online", "offline", "", None, 5, _GONE]),
    (TASK, "job.queue", [5, ["q"]]),
    (TASK, "job.previousState", ["lost", 5]),
    (TASK, "job.workerId", ["", 5]),
    (TASK, "job.attempt", [0, -1, 1.5, "1", True, -(10**40)]),
    (TASK, "job.maxRetries", [-1, 0.5, "1", True]),
    (TASK, "job.progress", [-0.1, 1.1, "1", True]),
    (TASK, "job.error", [5, {}]),
    (TASK, "job.stacktrace", [5, []]),
    (TASK, "job.createdAt", ["x", 5]),
    (TASK, "job.startedAt", ["x", 5]),
    (TASK, "job.completedAt", ["x", 5]),
    (TASK, "job.scheduledFor", ["x", 5]),
    (TASK, "job.parentId", ["", 5]),
    (TASK, "job.rootId", ["", 5]),
    (TASK, "job.extensions", [None, 5, []]),
    (WORKER, "worker", [5, "x", []]),
    (WORKER, "worker.externalId", ["", None, 5, _GONE]),
    (WORKER, "worker.hostname", [None, 5, _GONE]),
    (WORKER, "worker.pid", [None, "5", 1.5, _GONE]),
    (WORKER, "worker.state", ["active", "unknown", None, 5, _GONE]),
    (WORKER, "worker.concurrency", [-1, "1"]),
    (WORKER, "worker.activeJobs", [-1, "1"]),
    (WORKER, "worker.queues", ["a", 5, {}]),
    (WORKER, "worker.metadata", [5, []]),
    (WORKER, "worker.extensions", [None, 5]),
    (QUEUE, "queue", [5, []]),
    (QUEUE, "queue.name", [None, 5, _GONE]),
    (QUEUE, "queue.depth", [-1, "1"]),
    (QUEUE, "queue.consumers", [-1, 1.5]),
]


@pytest.mark.parametrize(
    ("event", "path", "values"), BAD, ids=[f"{n}-{one[1]}" for n, one in enumerate(BAD)]
)
def test_a_bad_field_is_named_with_its_path_and_the_good_events_are_kept(event, path, values):
    for value in values:
        batch = read(body(QUEUE, changed(event, path, value), TASK))
        assert [(one.index, one.path) for one in batch.faults] == [(1, path)], value
        assert batch.refused == 1
        assert len(batch.events) == 2
        assert batch.faults[0].message


@pytest.mark.parametrize(
    ("event", "path", "value", "told"),
    [
        (TASK, "job.extensions.x", {}, ["job.extensions[...]"]),
        (TASK, "job.extensions.x", [1], ["job.extensions[...]"]),
        (WORKER, "worker.metadata.x", {}, ["worker.metadata[...]"]),
        (WORKER, "worker.metadata.x", ["a"], ["worker.metadata[...][0]"]),
        (WORKER, "worker.queues", [5, "a", None], ["worker.queues[0]", "worker.queues[2]"]),
        (WORKER, "worker.queues", ["a", "x" * 256], ["worker.queues[1]"]),
        (WORKER, "worker.extensions.x", [5], ["worker.extensions[...][0]"]),
        (WORKER, "worker.extensions.x", [{"y": []}], ["worker.extensions[...][0][...]"]),
    ],
)
def test_what_is_bad_inside_of_a_field_is_named_with_its_place(event, path, value, told):
    bad = changed(changed(event, path, value), "connectionId", "x")
    assert paths(read(body(bad))) == [*told, "connectionId"]


def test_all_bad_fields_of_an_event_are_named():
    wanted = {
        *("timestamp", "framework", "connectionId", "job.state", "job.name", "job.attempt"),
        *("job.createdAt", "job.externalId", "job.extensions", "job.progress"),
    }
    event = TASK
    for path in wanted:
        event = changed(event, path, _GONE if path in {"job.externalId", "framework"} else [])
    assert set(paths(read(body(event)))) == wanted


@pytest.mark.parametrize("path", ["type", "job", "worker", "timestamp"])
def test_a_bad_field_of_the_event_hides_no_other(path):
    bad = changed(changed(TASK, path, 5), "connectionId", "x")
    assert paths(read(body(bad))) == [path, "connectionId"]


def test_all_bad_events_are_named_by_their_place():
    bad = changed(TASK, "job.attempt", 0)
    batch = read(body(bad, TASK, changed(bad, "connectionId", ""), WORKER))
    assert [(one.index, one.path) for one in batch.faults] == [
        (0, "job.attempt"), (2, "job.attempt"), (2, "connectionId"),
    ]  # fmt: skip
    assert (batch.refused, len(batch.events)) == (2, 2)


def test_the_answer_stays_small_however_much_is_wrong():
    bad = {name: [] for name in ("type", "timestamp", "framework", "connectionId")}
    batch = read(json.dumps({"events": [bad] * EVENTS_LIMIT}).encode())
    assert batch.refused == EVENTS_LIMIT
    assert len(batch.faults) <= 100 * 20
    queues = changed(WORKER, "worker.queues", [5] * 5000)
    assert len(read(body(queues)).faults) <= 20


@pytest.mark.parametrize(
    ("event", "own"), [(TASK, "job"), (WORKER, "worker"), (QUEUE, "queue")], ids=str
)
def test_an_event_has_exactly_the_one_subject_of_its_type(event, own):
    subjects = {"job": TASK["job"], "worker": WORKER["worker"], "queue": QUEUE["queue"]}
    for name, subject in subjects.items():
        batch = read(body(changed(event, name, subject)))
        assert paths(batch) == ([] if name == own else [name])
    assert paths(read(body(changed(event, own, _GONE)))) == [own]
    assert paths(read(body(changed(event, own, None)))) == [own]
    everything = read(body({**event, **subjects}))
    assert set(paths(everything)) == subjects.keys() - {own}


# --- hostile bodies -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"", "$"),
        (b"\xff", "$"),
        (b"[]", "$"),
        (b"null", "$"),
        (b"{}", "$"),
        (b'{"events": 5}', "$.events"),
        (b'{"events": null}', "$.events"),
        (b'{"events": [}', "$"),
        (b'{"events": []} x', "$"),
        (b'{"events": [NaN]}', "$"),
        (b'{"events": ["\x00"]}', "$"),
        (b'{"events": ["\\ud800"]}', "$"),
        (b"[" * 900_000, "$"),
        (b'{"events": ' + b"[" * 900_000, "$"),
        (b'{"x": ' * 100_000, "$"),
    ],
    ids=lambda one: repr(one)[:20],
)
def test_what_is_no_envelope_is_refused_with_a_place(content, path):
    found = refused(content)
    assert (found.status, found.code, found.path) == (400, "VALIDATION_ERROR", path)
    assert found.message


def within(what: bytes, instead: bytes) -> bytes:
    """A body of one good event and one in which something stands in the place of a part."""
    good = json.dumps(TASK).encode()
    assert good.count(what) == 1
    return b'{"events": [%b, %b]}' % (good, good.replace(what, instead))


@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        (within(b'"orders.charge"', b'"\\u0000"'), 2),
        (within(b'"attempt": 1', b'"attempt": ' + b"9" * 100), 2),
        (within(b'"attempt": 1', b'"attempt": ' + b"9" * 10_000), 1),
        (within(b'"attempt": 1', b'"attempt": 0, "attempt": 1'), 1),
        (within(b'"attempt": 1', b'"future": ' + b"9" * 10_000), 2),
        (within(b'"progress": 0.5', b'"progress": 1e999'), 1),
        (within(b'"orders.charge"', b'"\xff"'), 1),
        (within(b'"orders.charge"', b'"\xed\xa0\x80"'), 1),
        (within(b'"progress": 0.5', b'"future": "\xff"'), 1),
        (within(b'"progress": 0.5', b'"\xff": 1'), 1),
        (within(b'"progress": 0.5', b'"future": ' + b"[" * 500 + b"]" * 500), 2),
    ],
    ids=range(11),
)
def test_an_event_that_no_sender_of_ours_makes_costs_no_other(content, accepted):
    batch = read(content)
    assert (len(batch.events), batch.refused) == (accepted, 2 - accepted)
    assert len(batch.faults) >= batch.refused
    for _, raw in batch.events:
        raw.decode()  # it is kept as a text


#: JSON with a fault here and there.
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _survives(content: bytes) -> None:
    try:
        batch = read(content)
    except Refusal:
        return
    assert len({one.index for one in batch.faults}) == min(batch.refused, 100)
    for _, raw in batch.events:
        raw.decode()


@LAW
@given(data=st.data())
def test_any_bytes_are_events_or_a_refusal(data):
    content = bytearray(body(TASK, WORKER))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    _survives(bytes(content))
    _survives(data.draw(st.binary(max_size=50)))


_PLACES = [
    *(f"job.{name}" for name in TASK["job"]),
    *(name for name in TASK if name != "job"),
    *("job", "worker", "queue", "job.extensions.x", "future"),
]


@LAW
@given(values=st.dictionaries(st.sampled_from(_PLACES), _JSON, max_size=4), whole=_JSON)
def test_any_json_is_events_or_a_refusal(values, whole):
    event = TASK
    for path in sorted(values, reverse=True):  # what is inside of `job` before `job`
        event = changed(event, path, values[path])
    for document in ({"events": [event, TASK]}, {"events": whole}, whole):
        _survives(json.dumps(document).encode())


def test_a_time_of_the_wire_is_the_tests_own():
    assert stamp(AT) == "2023-11-14T22:13:20Z"
