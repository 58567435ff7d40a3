"""One batch, one outcome: status codes, waiting, and the network as companies have it."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import socket
import ssl
import threading
import time
from email.utils import format_datetime
from itertools import cycle
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import trustme
import urllib3.connection
from hypothesis import given
from hypothesis import strategies as st

from sluice import __version__, native
from sluice.config import Secret, Settings
from sluice.connection import _WithinTime
from sluice.detect import Concurrency
from sluice.http import (
    LONGEST_BACKOFF,
    LONGEST_RETRY_AFTER,
    PROBE_INTERVAL,
    TRY_AGAIN,
    Deliverer,
    Outcome,
    Patience,
    Verdict,
    _Silence,
    describe,
    judge,
    seconds_to_wait,
)
from sluice.testing import Answer, IngestServer
from tests.doubles import LAW, TEXT
from tests.harness import CONNECTION_ID
from tests.harness.front import Front
from tests.harness.workers import NOBODY_LISTENS

KEY = "sk_live_51HopeNobodyEverSeesThis"
PASSWORD = "correct-horse"
BODY = b'{"events":[]}'
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
ORDINARY = native.load(Concurrency("none", frozenset()))
#: What the machine of a developer may have set.
VARIABLES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "NETRC"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUEST_METHOD"),
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server():
    with IngestServer() as server:
        yield server


class Delivery:
    """A deliverer and what it asked of its surroundings; ends after so many failed tries."""

    def __init__(self, url: str, *, tries: int = 1, **settings: Any) -> None:
        self.tries = tries
        self.time = inf
        self.patience = Patience(1, inf)
        self.pauses: list[float] = []
        self.troubles: list[Outcome] = []
        self.deliverer = Deliverer(
            Settings(api_key=Secret(KEY), connection_id=CONNECTION_ID, api_url=url, **settings),
            ORDINARY,
            pause=self.pauses.append,
            time_left=lambda: self.time if len(self.troubles) < self.tries else 0.0,
            on_trouble=self.troubles.append,
        )

    def __call__(self, body: bytes = BODY) -> Outcome:
        return self.deliverer.deliver(body, self.patience)

    @property
    def reason(self) -> str:
        return self.troubles[-1].reason


@pytest.fixture
def delivery():
    """Make a `Delivery`; its connections are closed after the test."""
    made: list[Delivery] = []

    def make(url: str, **kwargs: Any) -> Delivery:
        made.append(Delivery(url, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.deliverer.close()


# --- judge ----------------------------------------------------------------------------------------

TABLE = {
    Verdict.DELIVERED: [200, 201, 202, 204, 299],
    Verdict.REJECTED: [400, 409, 422],
    Verdict.UNAUTHORIZED: [401, 403],
    Verdict.TOO_LARGE: [413],
    Verdict.LATER: [408, 425, 429, 500, 502, 503, 504, 507, 599, 600],
    Verdict.MISDIRECTED: [300, 301, 302, 303, 304, 307, 308, 402, 404, 405, 410, 418, 451],
}


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(status, verdict) for verdict, statuses in TABLE.items() for status in statuses],
)
def test_a_status_decides(status, verdict):
    assert judge(status).verdict is verdict
    assert str(status) in judge(status).reason


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_may_say_when_to_come_back(status):
    assert judge(status, "7").retry_after == 7.0
    assert judge(status).retry_after is None


@pytest.mark.parametrize("status", [200, 302, 400, 401, 404, 413])
def test_nobody_else_decides_when_to_come_back(status):
    assert judge(status, "7").retry_after is None


def test_a_redirect_says_why_it_is_not_followed():
    assert "redirect" in judge(307).reason


@pytest.mark.parametrize("verdict", Verdict)
def test_the_same_batch_is_sent_again_unless_its_fate_is_decided(verdict):
    decided = {Verdict.DELIVERED, Verdict.REJECTED, Verdict.TOO_LARGE}
    assert (verdict in TRY_AGAIN) is (verdict not in decided)


# --- Retry-After ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("0.25", 0.25),
        (" 7 ", 7.0),
        ("0", None),
        ("-1", None),
        ("nan", None),
        ("inf", LONGEST_RETRY_AFTER),
        ("1e999", LONGEST_RETRY_AFTER),
        ("3600", 3600.0),
        ("3601", LONGEST_RETRY_AFTER),
        ("86400", LONGEST_RETRY_AFTER),
        ("soon", None),
        ("Fri, 02 Jan 2026 03:04:15 GMT", 10.0),
        ("Fri, 02 Jan 2026 03:04:15 -0000", 10.0),
        ("Fri, 02 Jan 2026 05:04:15 +0200", 10.0),
        ("Friday, 02-Jan-26 03:04:15 GMT", 10.0),
        ("Fri, 02 Jan 2026 03:04:05 GMT", None),
        ("Fri, 02 Jan 2026 03:03:00 GMT", None),
        ("Sat, 03 Jan 2026 03:04:05 GMT", LONGEST_RETRY_AFTER),
        ("Fri, 02 Jan 2026", None),
        ("Fri, 99 Jan 2026 03:04:15 GMT", None),
        ("Thu, 01 Jan 0001 00:00:00 +9999", None),
        ("Fri, 31 Dec 9999 23:59:59 -9999", None),
        ("Fri, 02 Jan 2026 03:04:15 +99999999999999", None),
    ],
)
def test_retry_after(header, seconds):
    assert seconds_to_wait(header, NOW) == seconds


@LAW
@given(header=st.text() | st.text("0123456789 ,:+-.eEGMTJanFri", max_size=40))
def test_retry_after_of_any_kind_is_a_wait_of_up_to_an_hour_or_nothing(header):
    seconds = seconds_to_wait(header, NOW)
    assert seconds is None or 0 < seconds <= LONGEST_RETRY_AFTER == 3600


@LAW
@given(seconds=st.integers(1, 10_000))
def test_seconds_and_dates_say_the_same(seconds):
    date = format_datetime(NOW + dt.timedelta(seconds=seconds), usegmt=True)
    assert seconds_to_wait(date, NOW) == seconds_to_wait(str(seconds), NOW)


def test_a_date_counts_from_now():
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=600)
    assert 500 < seconds_to_wait(format_datetime(soon, usegmt=True)) <= 600


# --- requests -------------------------------------------------------------------------------------


def test_a_request_is_as_the_contract_says(server, delivery):
    outcome = delivery(server.url)(b'{"events": [ ]}')
    assert outcome.verdict is Verdict.DELIVERED
    (received,) = server.requests
    assert (received.method, received.path) == ("POST", "/api/ingest")
    assert received.body == b'{"events": [ ]}'
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"] == f"sluice-python/{__version__}"


def test_many_batches_take_one_connection(server, delivery):
    deliver = delivery(server.url)
    for _ in range(10):
        assert deliver().verdict is Verdict.DELIVERED
    assert server.connections == 1
    assert deliver.deliverer.requests == 10


@pytest.mark.parametrize("answer", [Answer(204), Answer(201, body=b""), Answer(body=b"x" * 50_000)])
def test_an_answer_of_any_length_keeps_the_connection(server, delivery, answer):
    server.answer = answer
    deliver = delivery(server.url)
    for _ in range(3):
        assert deliver().verdict is Verdict.DELIVERED
    assert server.connections == 1


def test_an_answer_without_an_end_is_not_read_to_its_end(server, delivery):
    server.answer = Answer(body=b"x" * 5_000_000)
    deliver = delivery(server.url)
    assert [deliver().verdict, deliver().verdict] == [Verdict.DELIVERED] * 2
    assert server.connections == 2  # the first was given up: it was not at its end


def test_an_answer_that_breaks_off_has_accepted_the_batch(server, delivery):
    server.answer = Answer(fault="truncate")
    assert delivery(server.url)().verdict is Verdict.DELIVERED


def test_a_server_that_was_busy_is_asked_again(server, delivery):
    answers = iter([Answer(503), Answer(502), Answer(200)])
    server.answer = lambda _: next(answers)
    deliver = delivery(server.url, tries=10)
    assert deliver(BODY).verdict is Verdict.DELIVERED
    assert [received.status for received in server.requests] == [503, 502, 200]
    assert [received.body for received in server.requests] == [BODY] * 3
    assert len(deliver.pauses) == 2
    assert [trouble.reason for trouble in deliver.troubles] == [
        "the API answered 503",
        "the API answered 502",
    ]


def test_a_limit_is_waited_out_as_long_as_the_server_says(server, delivery):
    answers = iter([Answer(429, {"Retry-After": "17"}), Answer(200)])
    server.answer = lambda _: next(answers)
    deliver = delivery(server.url, tries=10)
    assert deliver().verdict is Verdict.DELIVERED
    (pause,) = deliver.pauses
    assert 17 <= pause <= 18


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_is_refused_for_good_is_not_sent_again(server, delivery, status):
    server.answer = Answer(status)
    deliver = delivery(server.url, tries=10)
    assert deliver().verdict is judge(status).verdict
    assert len(server.requests) == len(deliver.troubles) == 1
    assert deliver.pauses == []


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_refused_key_or_a_wrong_address_is_tried_rarely(server, delivery, status):
    server.answer = Answer(status)
    deliver = delivery(server.url, tries=2)
    assert deliver().verdict is judge(status).verdict
    (pause,) = deliver.pauses
    assert PROBE_INTERVAL == 300
    assert PROBE_INTERVAL <= pause <= PROBE_INTERVAL + LONGEST_BACKOFF


def test_delivery_ends_when_the_time_is_up(server, delivery):
    server.answer = Answer(503)
    deliver = delivery(server.url, tries=3)
    assert deliver().verdict is Verdict.LATER
    assert len(server.requests) == 3


def test_in_a_forked_child_threads_have_any_number_and_are_heard(monkeypatch):
    silence = _Silence(7)
    record = SimpleNamespace(thread=7)
    assert not silence.filter(record)
    monkeypatch.setattr("sluice.http.os.getpid", lambda: 1)
    assert silence.filter(record)


@pytest.mark.parametrize(
    ("answers", "patience", "tries"),
    [
        ([500], Patience(3, 0.0), 3),
        ([500], Patience(1, 0.0), 1),
        ([500], Patience(3, 60.0), 9),
        ([503], Patience(3, 0.0), 9),
        ([502], Patience(3, 0.0), 9),
        ([503, 503, 500, 500, 500], Patience(3, 0.0), 5),
        ([500, 500, 503, 500, 500, 503], Patience(3, 0.0), 9),
    ],
)
def test_answers_of_500_in_a_row_end_its_patience(server, delivery, answers, patience, tries):
    """Any other answer says that it is not the body."""
    statuses = cycle(answers)
    server.answer = lambda _: Answer(status=next(statuses))
    one = delivery(server.url, tries=9)
    one.patience = patience
    assert one().verdict is Verdict.LATER
    assert len(server.requests) == tries


@pytest.mark.parametrize(
    ("retry_after", "doubtful"), [(None, True), ("120", False), ("soon", True)]
)
def test_a_500_that_says_when_to_come_back_is_about_the_server(retry_after, doubtful):
    assert judge(500, retry_after).doubtful is doubtful


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [{"Location": "http://[bad"}, {"Location": "/", "Content-Encoding": "gzip"}],
    ids=["a bad location", "a body that is no gzip, or 1,000 times as large"],
)
def test_of_a_redirect_nothing_is_read_or_decoded(server, delivery, headers):
    server.answer = Answer(status=302, headers=headers, body=b"not what it says it is")
    assert delivery(server.url)().verdict is Verdict.MISDIRECTED


def test_no_cookie_is_kept(server, delivery):
    server.answer = Answer(headers={"Set-Cookie": "backend=7; Path=/"})
    one = delivery(server.url)
    for _ in range(2):
        one()
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]


def test_a_hint_that_is_sent_ahead_is_read_over(delivery):
    """By a proxy: 103 is no answer."""
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2
    answer += b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    def serve() -> None:
        with server.accept()[0] as client:
            client.recv(65536)
            client.sendall(answer)
            client.recv(65536)  # until it is closed

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        one = delivery(f"http://127.0.0.1:{server.getsockname()[1]}/api")
        assert one().verdict is Verdict.DELIVERED
        one.deliverer.close()
        thread.join(10)


def test_what_the_libraries_say_of_our_requests_is_not_logged(server, delivery, caplog):
    """A handler that sends a task would be the next event, and that the next request."""
    caplog.set_level("DEBUG")
    one = delivery(server.url)
    one()
    assert [record.name for record in caplog.records] == []
    thread = threading.Thread(target=lambda: requests.get(f"{server.url}/health", timeout=10))
    thread.start()
    thread.join()
    assert "urllib3.connectionpool" in [record.name for record in caplog.records], "others' are"
    one.deliverer.close()
    assert logging.getLogger("urllib3.connectionpool").filters == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_key_stays_here(server, delivery, status):
    with IngestServer() as elsewhere:
        server.answer = Answer(status, {"Location": f"{elsewhere.url}/ingest"})
        deliver = delivery(server.url)
        assert deliver().verdict is Verdict.MISDIRECTED
        assert "redirect" in deliver.reason
        assert elsewhere.connections == 0
    assert len(server.requests) == 1


# --- credentials ----------------------------------------------------------------------------------


def test_who_has_all_headers_printed_does_not_have_the_key(server, delivery, monkeypatch, capsys):
    """A well-known way to see what `requests` does; Celery logs what is printed."""
    monkeypatch.setattr("http.client.HTTPConnection.debuglevel", 1)
    deliver = delivery(server.url)
    assert deliver().verdict is Verdict.DELIVERED
    assert capsys.readouterr().out == ""
    assert len(server.requests) == 1


@pytest.mark.parametrize("named", ["by its place", "by NETRC"])
def test_a_netrc_file_is_ignored(server, delivery, monkeypatch, tmp_path, named):
    netrc = tmp_path / (".netrc" if named == "by its place" else "elsewhere")
    netrc.write_text(f"machine 127.0.0.1 login somebody password {PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    if named == "by NETRC":
        monkeypatch.setenv("NETRC", str(netrc))
    delivery(server.url)()
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def https(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with IngestServer(tls=context) as server:
        yield server


@pytest.fixture
def bundle(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def test_what_is_trusted_is_read_once_for_all_connections(https, bundle, delivery, monkeypatch):
    """Each context holds certificates of its own: with certifi's, more than 1 MiB."""
    made = []
    make = urllib3.connection.create_urllib3_context
    monkeypatch.setattr(
        urllib3.connection,
        "create_urllib3_context",
        lambda *a, **k: made.append(1) or make(*a, **k),
    )
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    answers = iter([*[Answer(500, fault="close")] * 4, Answer(200)])
    https.answer = lambda _: next(answers)
    assert delivery(https.url, tries=10)().verdict is Verdict.DELIVERED
    assert (https.connections, len(made)) == (5, 1)


def test_a_bundle_that_has_changed_is_read_again(https, bundle, delivery, monkeypatch, tmp_path):
    """As a machine does it whose certificates are renewed while the worker runs."""
    trusted = tmp_path / "trusted.pem"
    trustme.CA().cert_pem.write_to_path(trusted)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
    deliver = delivery(https.url, tries=2)
    assert deliver().verdict is Verdict.LATER
    trusted.write_bytes(Path(bundle).read_bytes())
    assert deliver().verdict is Verdict.DELIVERED


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_companys_own_authority_is_trusted(https, bundle, delivery, monkeypatch, variable):
    monkeypatch.setenv(variable, bundle)
    deliver = delivery(https.url)
    assert deliver().verdict is Verdict.DELIVERED
    assert deliver().verdict is Verdict.DELIVERED
    assert https.connections == 1


@pytest.mark.parametrize("kind", ["server", "https"])
def test_a_connection_that_somebody_closed_is_theirs_and_another_is_made(
    kind, request, bundle, delivery, monkeypatch
):
    """A daemon closes all descriptors, and opens files of its own, which get their numbers."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    server = request.getfixturevalue(kind)
    deliver = delivery(server.url)
    assert deliver().verdict is Verdict.DELIVERED
    (number,) = deliver.deliverer.sockets._known
    theirs, other = socket.socketpair()  # before, so that `other` cannot get that number
    os.dup2(theirs.fileno(), number)
    other.setblocking(False)
    assert deliver().verdict is Verdict.DELIVERED
    with pytest.raises(BlockingIOError):
        other.recv(1)
    os.fstat(number)
    assert (server.connections, len(server.requests)) == (2, 2)
    os.close(number)
    theirs.close()
    other.close()


def test_an_unknown_authority_is_refused_and_told(https, delivery):
    deliver = delivery(https.url)
    assert deliver().verdict is Verdict.LATER
    assert "certificate was not accepted" in deliver.reason
    assert https.requests == []


def test_a_certificate_of_another_host_is_refused(authority, bundle, delivery, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with IngestServer(tls=context) as server:
        deliver = delivery(server.url)
        assert deliver().verdict is Verdict.LATER
        assert "certificate was not accepted" in deliver.reason
        assert server.requests == []


# --- addresses ------------------------------------------------------------------------------------


def test_an_ipv6_host_is_reached(delivery):
    try:
        server = IngestServer(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server:
        assert "[::1]" in server.url
        assert delivery(server.url)().verdict is Verdict.DELIVERED
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


def test_a_name_is_resolved(server, delivery):
    assert delivery(f"http://localhost:{server.port}/api")().verdict is Verdict.DELIVERED


def test_nobody_there_is_a_reason_to_come_back_later(delivery):
    deliver = delivery(NOBODY_LISTENS, tries=3)
    assert deliver().verdict is Verdict.LATER
    assert len(deliver.pauses) == 2
    assert deliver.reason.startswith("the API was not reached (")
    assert "refused" in deliver.reason


@pytest.mark.parametrize("fault", ["close", "reset"])
def test_a_connection_that_breaks_is_made_again(server, delivery, fault):
    answers = iter([Answer(200), Answer(fault=fault), Answer(200)])
    server.answer = lambda _: next(answers)
    deliver = delivery(server.url, tries=10)
    assert [deliver().verdict, deliver().verdict] == [Verdict.DELIVERED] * 2
    assert (len(server.requests), server.connections) == (3, 2)


# --- proxies --------------------------------------------------------------------------------------


def test_an_http_proxy_is_used(server, delivery, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    # A name that only the proxy could resolve.
    assert delivery("http://ingest.invalid/api")().verdict is Verdict.DELIVERED
    assert server.requests[0].path == "http://ingest.invalid/api/ingest"


def test_hosts_in_no_proxy_are_reached_without_it(server, delivery, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "10.0.0.1,127.0.0.1")
    assert delivery(server.url)().verdict is Verdict.DELIVERED
    assert server.requests[0].path == "/api/ingest"


def test_no_proxy_is_asked_for_a_collector_on_this_machine(server, delivery, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert delivery(server.url, proxied=False)().verdict is Verdict.DELIVERED


def test_the_proxy_is_asked_for_once_and_not_for_every_request(server, delivery, monkeypatch):
    deliver = delivery(server.url)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert deliver().verdict is Verdict.DELIVERED


def test_https_goes_through_a_tunnel_and_the_proxy_sees_no_key(
    https, bundle, delivery, monkeypatch
):
    with contextlib.closing(Front(https.port, answer=b"200 Connection established")) as tunnel:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:{tunnel.port}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        deliver = delivery(https.url)
        assert deliver().verdict is Verdict.DELIVERED
        assert len(https.requests) == 1
        (head,) = tunnel.heads
        assert head.startswith(f"CONNECT 127.0.0.1:{https.port} ".encode())
        assert b"\r\nProxy-Authorization: Basic " in head
        assert KEY.encode() not in head
        deliver.deliverer.close()


# --- time -----------------------------------------------------------------------------------------


class Line:
    """In the place of a session: nobody answers, and what was asked is kept."""

    def __init__(self) -> None:
        self.timeouts: list[tuple[float, float]] = []

    def post(self, url: str, **kwargs: Any) -> Any:
        assert kwargs["allow_redirects"] is False
        self.timeouts.append(kwargs["timeout"])
        raise requests.ConnectionError("nobody")

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("left", "timeouts"),
    [
        (inf, (5.0, 10.0)),
        (60.0, (5.0, 10.0)),
        (7.0, (5.0, 7.0)),
        (1.5, (1.5, 1.5)),
        (0.0, (0.05, 0.05)),
        (-3.0, (0.05, 0.05)),
    ],
)
def test_no_request_waits_longer_than_there_is_time(delivery, left, timeouts):
    deliver = delivery(NOBODY_LISTENS)
    deliver.time = left
    deliver.deliverer._session.close()
    line = deliver.deliverer._session = Line()
    deliver()
    assert line.timeouts == [timeouts]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_an_answer_of_one_byte_at_a_time_is_not_waited_for(
    secure, server, https, bundle, delivery, monkeypatch
):
    """Each byte comes well within the timeout; all of them would take half a minute."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    slow = https if secure else server
    slow.answer = Answer(drip=0.2)
    deliver = delivery(slow.url, request_timeout=(5.0, 0.6))
    begin = time.monotonic()
    assert deliver().verdict is Verdict.LATER
    assert 0.5 < time.monotonic() - begin < 5
    slow.answer = Answer()
    deliver.tries = 2
    assert deliver().verdict is Verdict.DELIVERED


def test_an_answer_that_stops_coming_has_no_more_than_the_rest_of_the_time(server, delivery):
    """The second byte comes just before the end, the third would be waited for from there on."""
    server.answer = Answer(drip=4.5)
    deliver = delivery(server.url, request_timeout=(5.0, 5.0))
    begin = time.monotonic()
    assert deliver().verdict is Verdict.LATER
    assert time.monotonic() - begin < 8


def test_a_socket_without_a_timeout_is_read_as_it_is():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = _WithinTime(ours.makefile("rb", buffering=0), ours)
        theirs.sendall(b"abc")
        assert reader.read(3) == b"abc"
        assert ours.gettimeout() is None
        reader.close()
        assert reader.closed
        assert reader._raw.closed


def test_each_answer_has_the_whole_time_for_itself(server, delivery):
    server.answer = Answer(delay=1.0)
    deliver = delivery(server.url, request_timeout=(5.0, 4.0))
    for _ in range(5):
        assert deliver().verdict is Verdict.DELIVERED
    assert server.connections == 1


def test_a_body_that_drips_does_not_undo_a_status(server, delivery):
    server.answer = Answer(body=b"x" * 60_000, drip=0.001)
    deliver = delivery(server.url, request_timeout=(5.0, 5.0))
    begin = time.monotonic()
    assert deliver().verdict is Verdict.DELIVERED
    assert time.monotonic() - begin < 15


def test_a_server_that_hangs_is_given_up(server, delivery):
    server.answer = Answer(fault="hang")
    deliver = delivery(server.url, request_timeout=(5.0, 0.1))
    assert deliver().verdict is Verdict.LATER
    assert "ReadTimeout" in deliver.reason


def test_pauses_grow_with_full_jitter_to_a_bound(delivery):
    deliver = delivery(NOBODY_LISTENS, tries=1200)
    deliver.deliverer._session.close()
    deliver.deliverer._session = Line()
    deliver()
    assert LONGEST_BACKOFF == 30
    bounds = [min(LONGEST_BACKOFF, 0.5 * 2**n) for n in range(10)] + [LONGEST_BACKOFF] * 1189
    assert all(0 <= pause <= bound for pause, bound in zip(deliver.pauses, bounds, strict=True))
    late = deliver.pauses[10:]
    assert max(late) > LONGEST_BACKOFF * 0.9
    assert min(late) < LONGEST_BACKOFF * 0.1


# --- describe -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proxy",
    [
        f"http://user:{PASSWORD}@127.0.0.1:9",
        f"http://user:{PASSWORD}@[::1]:9",
        f"gopher://user:{PASSWORD}@127.0.0.1:9",
        f"http://user:{PASSWORD}@:9",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_reason_shows_a_url_a_password_or_the_key(delivery, monkeypatch, proxy, scheme):
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy)
    deliver = delivery(f"{scheme}://ingest.invalid/path")
    assert deliver().verdict is Verdict.LATER
    for secret in (PASSWORD, KEY, "://", "/path", "user"):
        assert secret not in deliver.reason
    assert len(deliver.reason) < 200


def test_a_bundle_that_is_not_there_is_a_reason_and_not_an_error(https, delivery, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    deliver = delivery(https.url)
    assert deliver().verdict is Verdict.LATER
    assert (
        deliver.reason == "the file that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names was not found"
    )


@LAW
@given(
    text=TEXT.filter(lambda text: len(text) > 3), depth=st.integers(0, 30), end=st.integers(0, 3)
)
def test_a_reason_is_made_of_types_and_numbers_alone(text, depth, end):
    secret = f"secret {text}"
    error: BaseException = [
        OSError(secret),
        ValueError(secret),
        requests.ConnectionError(secret),
        requests.exceptions.InvalidURL(secret, request=SimpleNamespace(url=secret)),
    ][end]
    for _ in range(depth):
        error = requests.ConnectionError(RuntimeError(secret, error))
    assert secret not in describe(error)


def test_an_error_of_a_library_that_derives_from_oserror_has_no_system_words():
    assert KEY not in describe(requests.ConnectionError("failed", f"https://{KEY}@host"))


def test_the_systems_own_words_are_found_below_those_of_libraries():
    cause = ConnectionRefusedError(111, "Connection refused")
    wrapped = requests.ConnectionError(SimpleNamespace(), RuntimeError(cause))
    assert (
        describe(wrapped) == "the API was not reached (ConnectionRefusedError: Connection refused)"
    )


def test_causes_far_below_are_not_looked_for():
    error: BaseException = ConnectionRefusedError(111, "Connection refused")
    for _ in range(1000):
        error = RuntimeError(error)
    assert describe(error) == "the API was not reached (RuntimeError)"


def test_errors_that_cause_each_other_have_an_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert describe(first) == "the API was not reached (ValueError)"
