"""The test server keeps the contract, and breaks it exactly as it is told to."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import trustme

from sluice.testing import Answer, FakeClock, IngestServer, Received, reject_if

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTION_ID = str(uuid4())
#: Far longer than anything here takes: only a broken test waits for it.
PATIENCE = 10.0


def job_event(event_id: str | None = None, **job: Any) -> dict[str, Any]:
    extensions = {"eventId": event_id} if event_id else {}
    subject = {"externalId": "t1", "name": "n", "state": "queued", "extensions": extensions}
    return {
        "type": "job_state_change",
        "timestamp": "2026-01-02T03:04:05.678Z",
        "framework": "celery",
        "connectionId": CONNECTION_ID,
        "job": subject | job,
    }


@pytest.fixture
def server() -> Iterator[IngestServer]:
    with IngestServer() as server:
        yield server


def connect(server: IngestServer) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE))


def send(
    client: http.client.HTTPConnection, *events: dict[str, Any], body: bytes | None = None
) -> tuple[int, dict[str, Any]]:
    payload = json.dumps({"events": events}).encode() if body is None else body
    client.request("POST", "/api/ingest", payload, {"Authorization": "Bearer sk_test"})
    answer = client.getresponse()
    return answer.status, json.loads(answer.read() or b"null")


def test_accepts_a_batch_and_keeps_it(server: IngestServer) -> None:
    with connect(server) as client:
        assert send(client, job_event("r-1"), job_event("r-2")) == (
            200,
            {"accepted": 2, "duplicates": 0},
        )
    (received,) = server.requests
    assert (received.method, received.path) == ("POST", "/api/ingest")
    assert received.headers["authorization"] == "Bearer sk_test"
    assert (received.status, received.kept) == (200, True)
    assert received.at <= time.monotonic()
    assert received.events == server.events() == [job_event("r-1"), job_event("r-2")]


def test_counts_and_hides_duplicates_but_not_events_without_an_id(server: IngestServer) -> None:
    with connect(server) as client:
        send(client, job_event("r-1"), job_event())
        assert send(client, job_event("r-1"), job_event("r-2"), job_event())[1] == {
            "accepted": 2,
            "duplicates": 1,
        }
    ids = [event["job"]["extensions"].get("eventId") for event in server.events()]
    assert ids == ["r-1", None, "r-2", None]


def test_events_can_be_read_between_requests(server: IngestServer) -> None:
    with connect(server) as client:
        send(client, job_event("r-1"))
        first = server.events()
        send(client, job_event("r-2"))
        assert first == [job_event("r-1")]
        assert server.events() == [job_event("r-1"), job_event("r-2")]


def test_counts_connections(server: IngestServer) -> None:
    with connect(server) as client, connect(server) as another:
        for _ in range(3):
            send(client, job_event())
        send(another, job_event())
    assert server.connections == 2
    assert [received.connection for received in server.requests] == [1, 1, 1, 2]


def test_health_needs_no_key_and_is_no_batch() -> None:
    with IngestServer(api_key="sk_right") as server, connect(server) as client:
        client.request("GET", "/api/health")
        answer = client.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"status": "ok"})
        assert server.events() == []


def test_refuses_a_wrong_key_path_and_method() -> None:
    with IngestServer(api_key="sk_right") as server, connect(server) as client:
        status, body = send(client, job_event())
        assert (status, body["error"]["code"]) == (401, "UNAUTHORIZED")
        client.request("POST", "/elsewhere", b"{}")
        answer = client.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (404, "NOT_FOUND")
        client.request("GET", "/api/ingest")
        answer = client.getresponse()
        assert (answer.status, answer.read() != b"") == (405, True)
        assert [received.kept for received in server.requests] == [False] * 3


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"events": 1}',
        b'{"events": [{}]}',
        b'{"events": ["\xff"]}',
        json.dumps({"events": [job_event(state="exploded")]}).encode(),
        json.dumps({"events": [job_event(name="x" * 1025)]}).encode(),
        json.dumps({"events": [job_event() | {"queue": {"name": "q"}}]}).encode(),
    ],
    ids=[
        *("no JSON", "a list", "no list", "nothing", "no object"),
        *("a state", "a name", "two subjects"),
    ],
)
def test_refuses_what_breaks_the_contract(server: IngestServer, body: bytes) -> None:
    with connect(server) as client:
        status, answer = send(client, body=body)
        assert (status, answer["error"]["code"]) == (400, "VALIDATION_ERROR")
        assert send(client, job_event())[0] == 200
    assert len(server.events()) == 1


def test_takes_anything_unread_without_check() -> None:
    with IngestServer(check=False) as server, connect(server) as client:
        assert send(client, body=b"not json") == (200, {})


def test_limits_bytes_and_events() -> None:
    with IngestServer(body_limit=2000, events_limit=3) as server, connect(server) as client:
        assert send(client, *[job_event()] * 3)[0] == 200
        assert send(client, *[job_event()] * 4)[1]["error"]["code"] == "PAYLOAD_TOO_LARGE"
        assert send(client, job_event(error="x" * 2000))[0] == 413
        assert len(server.events()) == 3


@pytest.mark.parametrize("status", [204, 302, 400, 401, 403, 404, 413, 429, 500, 503])
def test_answers_a_status_with_headers(server: IngestServer, status: int) -> None:
    server.answer = Answer(status, {"Retry-After": "7", "Location": "http://127.0.0.1:9/"})
    with connect(server) as client:
        client.request("POST", "/api/ingest", json.dumps({"events": [job_event()]}))
        answer = client.getresponse()
        body = answer.read()
        assert answer.status == status
        assert answer.headers["Retry-After"] == "7"
        assert answer.headers["Location"] == "http://127.0.0.1:9/"
        assert body == b"" if status == 204 else set(json.loads(body)) == {"error"}
        assert len(server.events()) == (1 if status == 204 else 0)


def test_asks_a_callable_for_each_request(server: IngestServer) -> None:
    answers = iter([Answer(503), Answer(429), Answer(201)])

    def next_answer(received: Received) -> Answer:
        assert received.events == [job_event("r-1")]
        return next(answers)

    server.answer = next_answer
    with connect(server) as client:
        assert [send(client, job_event("r-1"))[0] for _ in range(3)] == [503, 429, 201]
    assert server.events() == [job_event("r-1")]
    assert [received.status for received in server.requests] == [503, 429, 201]


def test_rejects_batches_with_a_bad_event(server: IngestServer) -> None:
    server.answer = reject_if(lambda event: event["job"]["name"] == "bad")
    with connect(server) as client:
        status, body = send(client, job_event(), job_event(name="bad"))
        assert (status, body["error"]["details"]) == (400, {"events": [1]})
        assert send(client, job_event())[0] == 200


def test_delays_an_answer(server: IngestServer) -> None:
    server.answer = Answer(delay=0.05)
    with connect(server) as client:
        started = time.monotonic()
        assert send(client, job_event())[0] == 200
        assert time.monotonic() - started >= 0.05


def test_drips_an_answer(server: IngestServer) -> None:
    server.answer = Answer(body=b"{}", drip=0.0001)
    with connect(server) as client:
        assert send(client, job_event()) == (200, {})


@pytest.mark.parametrize("fault", ["close", "reset", "truncate"])
def test_loses_an_answer_but_keeps_the_batch(server: IngestServer, fault: Any) -> None:
    server.answer = Answer(fault=fault)
    lost = (http.client.RemoteDisconnected, ConnectionResetError, http.client.IncompleteRead)
    with connect(server) as client:
        with pytest.raises(lost):
            send(client, job_event("r-1"))
        server.answer = Answer()
        client.close()
        assert send(client, job_event("r-1"))[1] == {"accepted": 0, "duplicates": 1}
    assert server.events() == [job_event("r-1")]
    assert server.connections == 2


@pytest.mark.parametrize("answer", [Answer(fault="hang"), Answer(delay=3600), Answer(drip=3600)])
def test_closes_at_once_with_a_stuck_request(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.testing.ingest._CLOSE_TIMEOUT", 30)
    server = IngestServer(answer=answer)
    with connect(server) as client, connect(server) as idle:
        idle.connect()
        client.request("POST", "/api/ingest", json.dumps({"events": [job_event()]}))
        assert server.wait_for(lambda s: len(s.requests) == 1, PATIENCE)
        assert server.wait_for(lambda s: s.connections == 2, PATIENCE)
        started = time.monotonic()
        server.close()
        assert time.monotonic() - started < 10
        with pytest.raises((OSError, http.client.HTTPException)):
            client.getresponse().read()
    server.close()
    assert [thread for thread in threading.enumerate() if thread.name == "sluice-ingest"] == []


def test_closes_quietly_where_a_connection_ends_its_listener_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = IngestServer()
    (listener,) = server._threads
    closing, address = server._closing.set, ("127.0.0.1", server.port)

    def close_and_be_connected_to() -> None:
        closing()
        # Refused, or reset: the listener may also have ended already, or end just then.
        with suppress(ConnectionError), socket.create_connection(address):
            listener.join(5)
        listener.join(5)

    monkeypatch.setattr(server._closing, "set", close_and_be_connected_to)
    server.close()
    assert not listener.is_alive()
    assert server._wake.fileno() == -1


def test_hang_keeps_nothing(server: IngestServer) -> None:
    server.answer = Answer(fault="hang")
    with connect(server) as client:
        client.request("POST", "/api/ingest", json.dumps({"events": [job_event()]}))
        assert server.wait_for(lambda s: len(s.requests) == 1, PATIENCE)
        assert server.events() == []


def test_can_listen_again_on_the_port_of_a_closed_server() -> None:
    with IngestServer() as server, connect(server) as client:
        send(client, job_event())
        port = server.port
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE):
        pass
    with IngestServer(port=port) as again, connect(again) as client:
        assert send(client, job_event())[0] == 200


def test_speaks_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with IngestServer(tls=context, answer=Answer(fault="hang")) as server:
        assert server.url == f"https://127.0.0.1:{server.port}/api"
        with closing(
            http.client.HTTPSConnection(
                "localhost", server.port, timeout=PATIENCE, context=trusting
            )
        ) as client:
            client.request("POST", "/api/ingest", json.dumps({"events": [job_event()]}))
            assert server.wait_for(lambda s: len(s.requests) == 1, PATIENCE)
            server.close()
            with pytest.raises((OSError, http.client.HTTPException)):
                client.getresponse()


def test_listens_on_ipv6() -> None:
    try:
        server = IngestServer(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server, closing(http.client.HTTPConnection("::1", server.port, PATIENCE)) as client:
        assert server.url == f"http://[::1]:{server.port}/api"
        assert send(client, job_event())[0] == 200


def test_serves_as_its_own_proxy(server: IngestServer) -> None:
    with connect(server) as client:
        client.request("POST", f"{server.url}/ingest", json.dumps({"events": [job_event()]}))
        assert client.getresponse().status == 200
    assert server.requests[0].path == f"{server.url}/ingest"


@pytest.mark.parametrize("line", [b"nonsense\r\n", b"POST /api/ingest HTTP/1.1\r\nContent-Len"])
def test_survives_what_is_not_http(server: IngestServer, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    with connect(server) as fine:
        assert send(fine, job_event())[0] == 200
    assert len(server.requests) == 1


def test_wait_for_says_no_at_its_timeout(server: IngestServer) -> None:
    assert not server.wait_for(lambda s: False, 0.01)


def test_wait_for_sees_a_request_that_comes_while_it_waits(server: IngestServer) -> None:
    with connect(server) as client:
        asked = threading.Event()

        def one_event(server: IngestServer) -> bool:
            asked.set()
            return len(server.events()) == 1

        def send_when_asked() -> None:
            asked.wait(PATIENCE)
            send(client, job_event())

        sender = threading.Thread(target=send_when_asked)
        sender.start()
        assert server.wait_for(one_event, PATIENCE)
        sender.join()


def test_repr_tells_its_state(server: IngestServer) -> None:
    assert repr(server) == f"<IngestServer {server.url} open, 0 requests on 0 connections>"
    server.close()
    assert "closed" in repr(server)


@pytest.mark.alone
def test_is_no_bottleneck_at_30_000_events_a_second() -> None:
    body = json.dumps({"events": [job_event(error="x" * 200)] * 500}).encode()
    with IngestServer() as server, connect(server) as client:
        started = time.process_time()
        for _ in range(60):
            assert send(client, body=body)[0] == 200
        assert time.process_time() - started < 1.0
        assert len(server.events()) == 30_000


def test_fake_clock_passes_only_when_told() -> None:
    clock = FakeClock(start=10.0)
    assert clock.monotonic() == clock.monotonic() == 10.0
    clock.advance(2.5)
    assert clock.wait(1.5) is False
    clock.wait(-1.0)
    assert (clock.monotonic(), clock.waits) == (14.0, [1.5, -1.0])
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
