"""Clients that are slow, silent, greedy or broken: they are cut off in time, others are served."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sluice.collector import ingest
from sluice.collector import server as module
from tests.collector.conftest import Running
from tests.collector.wire import body, job, whole_answer
from tests.harness import wait_for

HEAD = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n"
ASK = HEAD + b"\r\n"
INGEST = b"POST /api/ingest HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk_x\r\n"
#: The timeouts of these tests in seconds, in the place of ten, thirty and twenty.
SHORT = 0.8
#: By then they have passed on the busiest machine, and the ones in whose place they are have not.
LATE = 8.0


@pytest.fixture(scope="module")
def hasty(_shared: Running) -> Iterator[Running]:
    """A collector whose timeouts are short; that of `one` began before, and has the usual ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HEAD_TIMEOUT", "SEND_TIMEOUT", "_IDLE_TIMEOUT"):
            patch.setattr(module, name, SHORT)
        patch.setattr(ingest, "BODY_TIMEOUT", SHORT)
        running = Running()
        # A connection that is kept may be closed at the moment at which it is used again.
        running.session.headers["Connection"] = "close"
        yield running
        running.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """Connect to a collector; closed after the test."""
    with contextlib.ExitStack() as clients:

        def begin(one, *said: bytes) -> socket.socket:
            address = ("127.0.0.1", one.port)
            client = clients.enter_context(socket.create_connection(address, 10))
            for part in said:
                client.sendall(part)
            return client

        yield begin


def rest(client: socket.socket) -> bytes:
    """All that comes until the other side ends it."""
    with contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: client.recv(65536), b""))
    return b""


def cut_off_after(client: socket.socket, since: float | None = None) -> float:
    begin = time.monotonic() if since is None else since
    rest(client)
    return time.monotonic() - begin


def dribble(client: socket.socket, text: bytes = b"x", every: float = 0.05) -> float:
    """Send it again and again until the other side ends it; after how many seconds that was."""
    begin = time.monotonic()
    client.settimeout(every)
    while time.monotonic() - begin < LATE + 1:
        try:
            client.sendall(text)
            if not client.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - begin


# --- heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"", b"G", b"GET / HTTP/1.1\r\n", HEAD, HEAD + b"X-A: b"],
    ids=lambda said: repr(said[-9:]),
)
def test_who_does_not_finish_a_head_is_cut_off(hasty, connect, said):
    begin = time.monotonic()
    client = connect(hasty, said) if said else connect(hasty)
    assert SHORT * 0.5 < cut_off_after(client, begin) < LATE


def test_a_head_that_comes_byte_by_byte_has_no_longer(hasty, connect):
    assert dribble(connect(hasty, HEAD + b"X-Slow: ")) < LATE


def test_the_second_head_on_a_connection_has_no_longer(hasty, connect):
    client = connect(hasty, ASK)
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert dribble(connect(hasty, ASK, HEAD + b"X-Slow: ")) < LATE
    client.sendall(HEAD)
    assert cut_off_after(client) < LATE


def test_a_head_that_comes_behind_a_request_has_no_longer(hasty, connect):
    client = connect(hasty, ASK + HEAD + b"X-Slow: ")
    assert cut_off_after(client) < LATE


def test_who_is_done_is_kept_for_a_while_and_then_not(hasty, connect):
    begin = time.monotonic()
    client = connect(hasty, ASK)
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert SHORT * 0.5 < cut_off_after(client, begin) < LATE


def test_five_hundred_silent_clients_keep_nobody_waiting(hasty, connect):
    for _ in range(250):
        connect(hasty)
        connect(hasty, HEAD)
    begin = time.monotonic()
    for number in range(5):
        assert hasty.post_events([job(f"t{number}", "queued")]).status_code == 200
        assert hasty.get("/api/jobs").status_code == 200
    assert time.monotonic() - begin < LATE
    connections = hasty.server.server_state.connections
    wait_for(lambda: len(connections) <= 1, LATE, lambda: f"{len(connections)} to be cut off")


# --- bodies ---------------------------------------------------------------------------------------


def test_a_body_that_comes_byte_by_byte_is_cut_off(hasty, connect):
    client = connect(hasty, INGEST + b"Content-Length: 1000\r\n\r\n")
    assert dribble(client, b" ") < LATE
    assert hasty.get("/api/health").status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        HEAD.replace(b"localhost", b"evil.example"),
        INGEST.replace(b"sk_x", b"wrong"),
        INGEST + b"Content-Encoding: gzip\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /api/clear HTTP/1.1\r\nHost: localhost\r\n",
    ],
    ids=["health", "403", "401", "415", "404", "clear"],
)
def test_a_body_that_nobody_waits_for_is_no_way_to_stay(hasty, connect, head):
    """The answer has gone, and the rest of the request never comes, or little by little."""
    slow = connect(hasty, head + b"Content-Length: 100000\r\n\r\n")
    silent = connect(hasty, head + b"Content-Length: 100000\r\n\r\n")
    assert silent.recv(65536).startswith(b"HTTP/1.1 ")
    assert dribble(slow) < LATE
    assert cut_off_after(silent) < LATE


def test_who_ends_such_a_body_and_says_no_more_is_cut_off_too(hasty, connect):
    client = connect(hasty, INGEST.replace(b"sk_x", b"wrong") + b"Content-Length: 10\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 401 ")
    client.sendall(b"x" * 10)
    assert cut_off_after(client) < LATE


def test_a_refused_body_is_read_to_its_end_and_the_connection_used_again(one, connect):
    """Or a client that sends first and reads then would see a reset in the place of a 401."""
    content = b"x" * 3_000_000
    head = INGEST + b"Content-Length: %d\r\n\r\n" % len(content)
    client = connect(one, head + content)
    assert whole_answer(client).startswith(b"HTTP/1.1 413 ")
    client.sendall(ASK)
    assert whole_answer(client).startswith(b"HTTP/1.1 200 ")


# --- greedy ones ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X-Big: " + b"x" * 200_000 + b"\r\n\r\n",
        HEAD + b"X: y\r\n" * 30_000 + b"\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"x" * 200_000,
    ],
    ids=["one", "many", "path", "noise"],
)
def test_a_huge_head_is_refused(one, connect, head):
    with contextlib.suppress(OSError):
        client = connect(one)
        client.sendall(head)
        answer = rest(client)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert one.get("/api/health").status_code == 200


@pytest.mark.parametrize(
    "noise",
    [
        *(b"\x16\x03\x01\x02\x00\x01\x00\x01", b"SSH-2.0-x\r\n\r\n", b"\0" * 100 + b"\r\n\r\n"),
        *(
            b"GET / HTTP/1.1\r\n\r\n",
            HEAD + b"Host: other\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ),
        *(INGEST + b"Content-Length: -1\r\n\r\n", INGEST + b"Content-Length: 5, 6\r\n\r\n"),
        *(INGEST + b"Transfer-Encoding: gzip\r\n\r\n", HEAD + b"A\r\nB: c\r\n\r\n"),
        INGEST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"X: a\0b\r\n\r\n",
    ],
    ids=lambda noise: repr(noise[-24:]),
)
def test_what_is_no_http_is_refused(one, connect, noise):
    client = connect(one, noise)
    answer = client.recv(65536)
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"403", b"501")
    assert one.get("/api/health").status_code == 200


@pytest.fixture
def big(hasty, monkeypatch) -> bytes:
    """A request whose answer is of some twenty megabytes."""
    monkeypatch.setattr(ingest, "BODY_TIMEOUT", 20.0)  # a megabyte may take its time
    more = {"error": "e" * 9000, "stacktrace": "s" * 40_000}
    if hasty.get("/api/jobs/big").status_code == 404:
        for part in range(20):
            at = 1000.0 + part * 20
            events = [job("big", "failed", at + n, **more) for n in range(20)]
            assert hasty.post_events(events).status_code == 200
    return b"GET /api/jobs/big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def test_a_client_that_does_not_read_is_let_go(hasty, connect, big):
    clients = [connect(hasty) for _ in range(5)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(big)
    connections = hasty.server.server_state.connections
    assert hasty.get("/api/health").status_code == 200
    wait_for(lambda: len(connections) <= 1, 10, lambda: f"{len(connections)} to be let go")


def test_a_client_that_reads_slowly_gets_it_all(hasty, connect, big):
    client = connect(hasty)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.sendall(big)
    size, begin = 0, time.monotonic()
    paused = threading.Event()
    while part := client.recv(400_000):
        size += len(part)
        if time.monotonic() - begin < SHORT * 4:
            paused.wait(SHORT / 20)
    assert time.monotonic() - begin > SHORT * 2
    assert size > 15_000_000


# --- other ways to speak --------------------------------------------------------------------------


def test_requests_that_come_together_are_answered_in_order(one, connect):
    content = body(job("a", "queued"))
    post = INGEST + b"Content-Length: %d\r\n\r\n" % len(content) + content
    last = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answers = rest(connect(one, ASK + post + ASK + last))
    statuses = [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"200", b"404"]


def test_http_1_0_is_answered_and_closed(one, connect):
    answer = rest(connect(one, b"GET /api/health HTTP/1.0\r\nHost: localhost\r\n\r\n"))
    assert answer.split(b" ")[1] == b"200"
    assert answer.endswith(b'{"status":"ok"}')


def test_http_1_0_without_a_host_is_refused(one, connect):
    assert rest(connect(one, b"GET /api/health HTTP/1.0\r\n\r\n")).split(b" ")[1] == b"403"


def test_a_client_that_asks_first_is_told_to_go_on(one, connect):
    content = body(job("a", "queued"))
    head = INGEST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(content)
    client = connect(one, head)
    assert client.recv(65536).startswith(b"HTTP/1.1 100 ")
    client.sendall(content)
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_leaves_in_its_body_is_no_fault(one, connect, caplog):
    client = connect(one, INGEST + b'Content-Length: 100\r\n\r\n{"events":[')
    client.close()
    wait_for(lambda: not one.server.server_state.tasks, 5)
    assert one.get("/api/jobs").json()["jobs"] == []
    assert "Traceback" not in caplog.text


def test_an_upgrade_to_what_is_not_spoken_is_plain_http(one, connect):
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    assert connect(one, HEAD + upgrade).recv(65536).startswith(b"HTTP/1.1 200 ")
