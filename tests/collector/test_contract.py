"""``POST /api/ingest`` as the contract has it, by raw requests and by the SDK's own sender."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from sluice.collector import ingest as module
from sluice.collector.ingest import Bucket, Ingest
from sluice.collector.intake import BODY_LIMIT, EVENTS_LIMIT
from sluice.collector.store import Store, Taken
from sluice.collector.writer import Writer
from sluice.events import Job, encode_job
from sluice.http import Verdict
from tests.collector.conftest import Running
from tests.collector.wire import Wire, body, job, queue, taken, whole_answer, worker
from tests.doubles import run_python
from tests.harness import CONNECTION_ID, wait_for
from tests.test_delivery import Rig
from tests.test_http import Delivery

KEY = "sk_live_51HopeNobodyEverSeesThis"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def refusal(answer) -> Wire:
    """The error object, which has the contract's form."""
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) - {"details"} == {"code", "message", "docs_url"}
    return error


def ids(one) -> set[str]:
    return {row["id"] for row in one.get("/api/jobs").json()["jobs"]}


# --- 200 ------------------------------------------------------------------------------------------


def test_what_is_accepted_is_counted_and_there_at_once(one):
    events = [job("a", "queued"), worker("w@h", "online"), queue("q", depth=3)]
    answer = one.post_events(events)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 3, "duplicates": 0})
    assert ids(one) == {"a"}


def test_what_was_sent_before_is_a_duplicate(one):
    events = [job("a", "queued"), job("b", "queued")]
    one.post_events(events)
    again = one.post_events([*events, job("c", "queued")])
    assert (again.status_code, again.json()) == (200, {"accepted": 1, "duplicates": 2})


def test_no_events_are_no_fault(one):
    assert one.post_events([]).json() == {"accepted": 0, "duplicates": 0}


# --- 400 ------------------------------------------------------------------------------------------


def test_each_bad_field_is_named_and_the_good_events_are_kept(one):
    bad = job("x", "flying", attempt=0)
    bad["connectionId"] = "nobody"
    lost = job("y", "queued")
    del lost["job"]["name"]
    answer = one.post_events([job("a", "queued"), bad, job("b", "queued"), lost])
    error = refusal(answer)
    assert (answer.status_code, error["code"]) == (400, "VALIDATION_ERROR")
    details = error["details"]
    assert (details["accepted"], details["duplicates"], details["events"]) == (2, 0, [1, 3])
    assert {(fault["index"], fault["path"]) for fault in details["faults"]} == {
        *((1, "job.state"), (1, "job.attempt"), (1, "connectionId")),
        (3, "job.name"),
    }
    assert all(fault["message"] for fault in details["faults"])
    assert ids(one) == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"events":{}}',
        b'{"events":[{]}',
        b"\xff\xfe",
        b"{}",
        b"[" * 99999,
    ],
    ids=lambda content: repr(content[:16]),
)
def test_a_body_that_is_none_is_refused_and_says_where(one, content):
    answer = one.post("/api/ingest", content, headers=AUTHORIZED)
    error = refusal(answer)
    assert (answer.status_code, error["code"]) == (400, "VALIDATION_ERROR")
    assert error["details"]["path"].startswith("$")


# --- 401 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict() -> Iterator[Running]:
    """A collector that takes one key only."""
    running = Running(api_key=KEY)
    yield running
    running.close()


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Bearer {KEY} ü", f"Bearer  {KEY}"),
        *(f"Bearer {KEY}x", "Bearer pk_live_1", "Bearer sk_", "Bearer sk_other"),
    ],
)
def test_a_key_that_is_missing_malformed_or_wrong_is_refused_and_never_repeated(strict, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = strict.post("/api/ingest", body(job("a", "queued")), headers=headers)
    error = refusal(answer)
    assert (answer.status_code, error["code"]) == (401, "UNAUTHORIZED")
    assert KEY not in answer.text
    assert "sk_other" not in answer.text
    assert ids(strict) == set()


def test_refused_keys_are_counted_and_told_of(one):
    one.post_events([], key="wrong")
    one.post_events([], key="wrong")
    wait_for(lambda: one.get("/api/now").json()["heard"]["refusedKeys"] >= 2)
    now = one.get("/api/now").json()
    assert now["heard"]["refusedKeys"] == 2
    assert now["heard"]["lastRefusedAt"].endswith("Z")
    assert now["diagnosis"] == "key_rejected"


def test_the_scheme_is_read_in_any_case(strict):
    headers = {"Authorization": f"bEARER {KEY}"}
    assert strict.post("/api/ingest", body(), headers=headers).status_code == 200


def test_without_a_key_of_its_own_it_takes_whatever_looks_like_one(one):
    assert one.post_events([], key="sk_x").status_code == 200
    assert one.post_events([], key="x").status_code == 401


# --- 404, 405 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/nothing", "/api/ingest/more"])
def test_what_is_not_there_is_404(one, path):
    answer = one.get(path)
    assert (answer.status_code, refusal(answer)["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/api/ingest"), ("PUT", "/api/ingest"), ("GET", "/api/clear")),
        *(
            ("POST", "/api/jobs"),
            ("DELETE", "/api/jobs/a"),
            ("OPTIONS", "/api/jobs"),
            ("POST", "/"),
        ),
    ],
)
def test_a_method_that_a_path_does_not_have_is_405(one, method, path):
    answer = one.session.request(method, one.url + path, timeout=20)
    assert (answer.status_code, refusal(answer)["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"]


# --- 413, 415, 408 --------------------------------------------------------------------------------


def conversation(one) -> socket.socket:
    return socket.create_connection(("127.0.0.1", one.port), 20)


def head(**headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    first = ["POST /api/ingest HTTP/1.1", "Host: localhost", f"Authorization: Bearer {KEY}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_length_over_the_limit_is_refused_before_the_body_comes(one):
    with conversation(one) as client:
        client.sendall(head(Content_Length=str(BODY_LIMIT + 1)))
        answer = whole_answer(client)
    assert status_of(answer) == 413
    assert b"PAYLOAD_TOO_LARGE" in answer


def test_a_body_in_chunks_is_cut_off_where_it_grows_too_large(one):
    with conversation(one) as client:
        client.sendall(head(Transfer_Encoding="chunked"))
        chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
        for _ in range(BODY_LIMIT // 0x8000 + 1):  # and no end
            client.sendall(chunk)
        answer = whole_answer(client)
    assert status_of(answer) == 413


def test_a_body_of_just_the_limit_is_taken(one):
    content = body(job("a", "queued"))
    content += b" " * (BODY_LIMIT - len(content))
    answer = one.post("/api/ingest", content, headers=AUTHORIZED)
    assert answer.status_code == 200


def test_more_events_than_the_limit_are_refused_whole(one):
    small = {"timestamp": "2026-01-01T00:00:00Z", "framework": "celery"}
    small |= {"type": "queue_snapshot", "connectionId": CONNECTION_ID, "queue": {"name": "q"}}
    assert one.post_events([small] * EVENTS_LIMIT).json()["accepted"] == EVENTS_LIMIT
    answer = one.post_events([small] * (EVENTS_LIMIT + 1))
    assert (answer.status_code, refusal(answer)["code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_a_compressed_body_is_refused_by_name(one):
    headers = AUTHORIZED | {"Content-Encoding": "gzip"}
    answer = one.post("/api/ingest", gzip.compress(body(job("a", "queued"))), headers=headers)
    assert (answer.status_code, refusal(answer)["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert "gzip" in answer.text
    identity = AUTHORIZED | {"Content-Encoding": "Identity"}
    assert one.post("/api/ingest", body(), headers=identity).status_code == 200


def test_a_body_that_does_not_come_is_408(one, monkeypatch):
    monkeypatch.setattr(module, "BODY_TIMEOUT", 0.2)
    with conversation(one) as client:
        client.sendall(head(Content_Length="100") + b'{"events"')
        answer = whole_answer(client)
    assert status_of(answer) == 408
    assert b"TIMEOUT" in answer


# --- 429 ------------------------------------------------------------------------------------------


def test_more_than_the_rate_is_told_when_to_come_back(collector):
    one = collector(rate_limit=1.0)  # ten at once need ten seconds
    assert one.post_events([job(str(n), "queued") for n in range(10)]).status_code == 200
    answer = one.post_events([job(f"more {n}", "queued") for n in range(10)])
    assert (answer.status_code, refusal(answer)["code"]) == (429, "RATE_LIMITED")
    assert 5 <= int(answer.headers["retry-after"]) <= 10
    assert len(ids(one)) == 10


def test_a_bucket_lets_through_what_it_says():
    clock = SimpleNamespace(now=0.0)
    bucket = Bucket(10.0, lambda: clock.now)
    assert bucket.wait(10) == 0
    assert bucket.wait(5) == pytest.approx(0.5)
    clock.now = 0.5
    assert bucket.wait(5) == 0
    clock.now = 100.0
    assert bucket.wait(10) == 0, "rest does not save up for more than a second"
    assert bucket.wait(1) > 0


def test_a_batch_larger_than_a_seconds_worth_gets_through_and_leaves_a_debt():
    clock = SimpleNamespace(now=0.0)
    bucket = Bucket(10.0, lambda: clock.now)
    assert bucket.wait(1000) == 0
    wait = bucket.wait(1000)
    assert wait == pytest.approx(100.0)
    clock.now = wait + 0.001
    assert bucket.wait(1000) == 0


def test_no_limit_is_no_limit():
    assert all(Bucket(0.0).wait(10**6) == 0 for _ in range(100))


def test_a_writer_that_is_behind_is_429(one, monkeypatch):
    monkeypatch.setattr(Writer, "offer", lambda *_: None)
    answer = one.post_events([job("a", "queued")])
    assert (answer.status_code, refusal(answer)["code"]) == (429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) >= 1


# --- 503 ------------------------------------------------------------------------------------------


def test_a_database_that_fails_is_503_until_it_does_not(collector, monkeypatch, caplog):
    one = collector()

    def failing(*_: object) -> None:
        raise sa.exc.OperationalError("INSERT", {}, Exception("database or disk is full"))

    with monkeypatch.context() as broken:
        broken.setattr(Store, "take", failing)
        for _ in range(3):
            answer = one.post_events([job("a", "queued")])
            assert (answer.status_code, refusal(answer)["code"]) == (503, "UNAVAILABLE")
            assert int(answer.headers["retry-after"]) >= 1
    assert caplog.text.count("writing failed") == 1, "said once, however often"
    assert one.post_events([job("a", "queued")]).status_code == 200


def test_who_stops_waiting_takes_no_other_along():
    """A request that is cancelled leaves its batch to the writer, which outlives that."""
    store = SimpleNamespace(let=threading.Event(), taken=0)

    def take(batches):
        store.let.wait(20)
        store.taken += len(batches)
        return [Taken(len(batch)) for batch in batches], 1

    store.take = take
    writer = Writer(store, lambda _: None)
    one = Ingest(writer, api_key=None, rate_limit=0, on_trouble=print)

    async def cancelled() -> None:
        batch = SimpleNamespace(events=taken([job("a", "queued")]), refused=0)
        waiting = asyncio.ensure_future(one._keep(batch))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(cancelled())
    store.let.set()
    promise = writer.offer(taken([job("b", "queued")]))
    assert promise.result(10).accepted == 1
    assert store.taken == 2
    writer.close(10)


# --- the SDK's sender -----------------------------------------------------------------------------


def payload(task: str, state: str = "queued") -> bytes:
    fields = {"external_id": task, "name": "orders.charge", "state": state, "attempt": 1}
    return encode_job(CONNECTION_ID, time.time(), Job(**fields, extensions={"pid": 1}))


@pytest.fixture
def deliver():
    """Give a body to the SDK's deliverer for one try, and say what came of it."""
    made: list[Delivery] = []

    def once(url: str, content: bytes):
        made.append(Delivery(url + "/api"))  # its key is that of this module
        return made[-1](content)

    yield once
    for one in made:
        one.deliverer.close()


def test_the_sdk_understands_each_answer(collector, deliver):
    one = collector(api_key=KEY, rate_limit=1.0)  # ten at once need ten seconds
    verdicts = [
        deliver(one.url, content)
        for content in (
            b'{"events":[%b]}' % b",".join(payload(f"a{n}") for n in range(10)),
            b'{"events":[%b]}' % payload("b"),
            b'{"events":[',
            b'{"events":[' + b" " * BODY_LIMIT,
        )
    ]
    assert [found.verdict for found in verdicts] == [
        *(Verdict.DELIVERED, Verdict.LATER, Verdict.REJECTED, Verdict.TOO_LARGE),
    ]
    assert 5 <= verdicts[1].retry_after <= 10
    stranger = collector(api_key="sk_another")
    assert deliver(stranger.url, b'{"events":[]}').verdict is Verdict.UNAUTHORIZED


@pytest.fixture
def rig():
    """A delivery of the SDK's over a ring in memory; ended after the test."""
    made: list[Rig] = []

    def make(url: str, **more) -> Rig:
        made.append(Rig(url + "/api", flush_interval=0.05, **more))
        made[-1].thread.start()
        return made[-1]

    yield make
    for one in made:
        one.end(0)
        one.bell.close()


def test_of_a_batch_with_a_bad_event_the_others_arrive_once(one, rig):
    sender = rig(one.url)
    for number in range(50):
        sender.ring.append(payload(f"task-{number}", "flying" if number == 17 else "queued"))
    sender.bell.ring()
    wait_for(lambda: sender.delivery.delivered >= 49, 20, "the good ones to arrive")
    assert ids(one) == {f"task-{number}" for number in range(50) if number != 17}
    told = one.get("/api/events?limit=1000").json()["events"]
    assert len(told) == 49


def test_a_key_that_is_refused_stops_the_sdk_and_shows_on_the_page(collector, rig):
    one = collector(api_key="sk_another")
    sender = rig(one.url)
    sender.ring.append(payload("a"))
    sender.bell.ring()
    wait_for(lambda: sender.told, what="the SDK to say so")
    assert "sk_" not in "".join(sender.told).replace("'sk_'", "")
    wait_for(lambda: one.get("/api/now").json()["diagnosis"] == "key_rejected")


def test_a_process_with_dev_alone_delivers_all_of_its_tasks(one, spool_dir):
    run_python(
        """
        import celery, sluice
        sluice.init()
        app = celery.Celery("app", broker="memory://")
        @app.task(name="orders.charge")
        def charge(): pass
        for number in range(20):
            charge.apply_async(task_id=f"task-{number}")
        """,
        SLUICE_DEV=one.url,
        SLUICE_SHUTDOWN_TIMEOUT="30",  # the machine may be busy
        SLUICE_SPOOL_DIR=str(spool_dir),  # all of them have one connection
        SLUICE_API_URL=None,
        SLUICE_API_KEY=None,
        SLUICE_CONNECTION_ID=None,
    )
    assert ids(one) == {f"task-{number}" for number in range(20)}
    (first, *_) = one.get("/api/jobs?q=task-7").json()["jobs"]
    assert (first["name"], first["state"]) == ("orders.charge", "queued")


def test_a_body_as_the_sdk_writes_it_is_kept_as_it_came(one):
    event = job("a", "failed", error="é\U0001f600", extensions={"note": "\x00 ü", "more": 2**63})
    event["future"] = {"field": [1, 2.5, None]}
    one.post_events([event])
    (kept,) = one.get("/api/events").json()["events"]
    assert kept["event"] == json.loads(json.dumps(event))
