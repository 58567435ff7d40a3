"""What the peers deliver is counted right, and each has the environment that it asks for."""

import ast
import contextlib
import gzip
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import environments, protocols
from benchmarks.environments import Environments, Unavailable, key, pins, versions
from benchmarks.peers import PEERS, WORKLOAD, Peer, named
from benchmarks.protobuf import fields
from benchmarks.protocols import OTHER, Tally
from benchmarks.reception import Reception
from benchmarks.resp import ReplyError, command, replies
from tests.doubles import LAW
from tests.harness import wait_for
from tests.peer_bodies import (
    CELERYRADAR,
    FAIL,
    FAN_OUT,
    NOOP,
    OPENTELEMETRY,
    SENT,
    SENTRY_ERROR,
    SLUICE_CELERY,
    STEMTRACE,
    kombu_message,
    sluice_body,
    transaction,
)

# --- what each tells ------------------------------------------------------------------------------


def test_sluice_is_read():
    assert list(protocols.sluice(sluice_body())) == [
        ("sent", SENT),
        ("received", NOOP),
        ("started", NOOP),
        ("succeeded", NOOP),
        ("failed", FAIL),
        OTHER,
    ]


def test_sluice_celery_is_read_by_the_same():
    assert list(protocols.sluice(SLUICE_CELERY)) == [
        ("received", NOOP),
        ("started", NOOP),
        ("succeeded", NOOP),
    ]


def test_celeryradar_is_read():
    assert [told for body in CELERYRADAR for told in protocols.celeryradar(body)] == [
        OTHER,
        OTHER,
        ("started", NOOP),
        ("succeeded", NOOP),
        ("failed", FAIL),
    ]


def test_stemtrace_is_read():
    assert [told for body in STEMTRACE for told in protocols.stemtrace(body)] == [
        OTHER,
        ("sent", SENT),
        ("started", FAN_OUT),
        ("succeeded", FAN_OUT),
    ]


def test_opentelemetry_is_read():
    assert list(protocols.opentelemetry(OPENTELEMETRY)) == [
        ("sent", SENT),
        ("started", FAN_OUT),
        ("succeeded", FAN_OUT),
        ("started", FAIL),
        ("failed", FAIL),
        ("started", NOOP),
        ("succeeded", NOOP),
        ("started", SENT),
        ("succeeded", SENT),
    ]


def test_a_retried_task_of_opentelemetry_has_not_succeeded():
    retried = OPENTELEMETRY.replace(b"\x0a\x07SUCCESS", b"\x0a\x05RETRY\x12\x00")
    assert ("retried", NOOP) in list(protocols.opentelemetry(retried))


def test_sentry_is_read():
    assert list(protocols.sentry(transaction(NOOP, "ok"))) == [
        ("started", NOOP),
        ("succeeded", NOOP),
    ]
    assert list(protocols.sentry(transaction(FAN_OUT, "ok", SENT, NOOP))) == [
        ("started", FAN_OUT),
        ("succeeded", FAN_OUT),
        ("sent", SENT),
        ("sent", NOOP),
    ]
    assert list(protocols.sentry(transaction(FAIL, "internal_error"))) == [
        ("started", FAIL),
        ("failed", FAIL),
    ]
    assert list(protocols.sentry(transaction(FAIL, "aborted")))[1] == ("retried", FAIL)
    assert list(protocols.sentry(SENTRY_ERROR)) == [("failed", FAIL)]


def test_sentrys_items_follow_each_other_and_some_say_no_length():
    both = SENTRY_ERROR + transaction(NOOP, "ok").split(b"\n", 1)[1]
    both += b'{"type":"sessions"}\n{"aggregates":[]}\n{"type":"client_report","length":2}\n{}'
    assert list(protocols.sentry(both)) == [
        ("failed", FAIL),
        ("started", NOOP),
        ("succeeded", NOOP),
        OTHER,
        OTHER,
    ]


def test_celery_events_are_read_alone_and_in_lists():
    received, started = (
        {"type": kind, "uuid": NOOP, "hostname": "w@h"}
        for kind in ("task-received", "task-started")
    )
    heartbeat = {"type": "worker-heartbeat", "hostname": "w@h"}
    assert list(protocols.celery_events(kombu_message(heartbeat))) == [OTHER]
    assert list(protocols.celery_events(kombu_message([received, started]))) == [
        ("received", NOOP),
        ("started", NOOP),
    ]


def test_a_tally_counts_distinct_tasks_and_what_it_could_not_read():
    tally = Tally()
    for body in (*CELERYRADAR, CELERYRADAR[2], b"{", b"[]"):
        tally.add(protocols.celeryradar, body)
    counts = tally.counts()
    assert counts["tasks"] == {"failed": 1, "started": 1, "succeeded": 1}
    assert (counts["events"], counts["repeated"]) == (4, 1)
    assert (counts["other"], counts["unreadable"]) == (2, 2)
    assert counts["first_error"].startswith("DecodeError")


# --- wire formats ---------------------------------------------------------------------------------


@LAW
@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_a_value_error(message):
    with contextlib.suppress(ValueError):
        fields(message)


@LAW
@given(st.integers(1, len(OPENTELEMETRY) - 1))
def test_a_message_that_was_cut_is_unreadable(end):
    tally = Tally()
    tally.add(protocols.opentelemetry, OPENTELEMETRY[:end])
    assert tally.counts()["unreadable"] == 1


REPLIES = b"+OK\r\n:7\r\n$-1\r\n*-1\r\n$4\r\na\r\nb\r\n*2\r\n$1\r\nx\r\n*1\r\n:1\r\n-ERR no\r\n"


@LAW
@given(st.integers(0, len(REPLIES)))
def test_replies_are_the_same_however_they_arrive(cut):
    first, rest = replies(REPLIES[:cut])
    second, nothing = replies(rest + REPLIES[cut:])
    assert nothing == b""
    *found, error = first + second
    assert found == [b"OK", 7, None, None, b"a\r\nb", [b"x", [1]]]
    assert isinstance(error, ReplyError)


def test_commands_are_lists_of_texts():
    assert command("GET", "ä", 5) == b"*3\r\n$3\r\nGET\r\n$2\r\n\xc3\xa4\r\n$1\r\n5\r\n"


# --- the receiver ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process() -> Iterator[Reception]:
    with Reception(named("sluice")) as one:
        yield one


@pytest.fixture
def reception(process: Reception) -> Reception:
    """A receiver that is up and empty."""
    process.become("up")
    process.reset()
    return process


@contextlib.contextmanager
def client(reception: Reception, timeout: float = 10.0) -> Iterator[http.client.HTTPConnection]:
    one = http.client.HTTPConnection(urlsplit(reception.url).netloc, timeout=timeout)
    with contextlib.closing(one):
        yield one


def post(
    one: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str] | None = None
) -> int:
    one.request("POST", path, body, headers or {})
    answer = one.getresponse()
    answer.read()
    return answer.status


def test_requests_of_all_protocols_are_counted(reception):
    gz = {"Content-Encoding": "gzip", "Content-Type": "application/x-sentry-envelope"}
    with client(reception) as one:
        assert post(one, "/api/ingest", sluice_body()) == 200
        assert post(one, "/ingest/", CELERYRADAR[2]) == 200
        assert post(one, "/v1/traces", OPENTELEMETRY) == 200
        assert post(one, "/api/1/envelope/", gzip.compress(transaction("x", "ok")), gz) == 200
    counts = reception.counts()
    assert counts["tasks"] == {"failed": 1, "received": 1, "sent": 1, "started": 5, "succeeded": 4}
    assert (counts["requests"], counts["connections"], counts["unreadable"]) == (4, 1, 0)
    assert counts["repeated"] == 5


def test_what_nobody_sends_is_unreadable(reception):
    with client(reception) as one:
        post(one, "/elsewhere", b"{}")
        post(one, "/ingest/", b"{}", {"Content-Encoding": "br"})
        post(one, "/ingest/", b"no gzip", {"Content-Encoding": "gzip"})
    counts = reception.counts()
    assert counts["unreadable"] == 3
    assert "/elsewhere" in counts["first_error"]


def test_bytes_are_those_of_the_wire(reception):
    short = b"POST /ingest/ HTTP/1.1\r\nHost: h\r\ncontent-length: 2\r\n\r\n{}"
    longer = b"POST /ingest/ HTTP/1.1\r\nHost: h\r\ncontent-length: 5\r\n\r\n{   }"
    where = urlsplit(reception.url)
    with socket.create_connection((where.hostname, where.port)) as raw:
        # Two at once, and then two more in parts.
        for part in (short + longer, short[:20], short[20:-1], short[-1:] + longer[:9], longer[9:]):
            raw.sendall(part)
            time.sleep(0.01)
        wait_for(lambda: reception.totals()["requests"] == 4)
    totals = reception.totals()
    assert totals["bytes"] == 2 * len(short + longer)
    assert totals["body_bytes"] == 14


def test_a_megabyte_is_one_request(reception):
    with client(reception) as one:
        assert post(one, "/ingest/", b" " * (1 << 20) + CELERYRADAR[2]) == 200
    assert reception.counts()["tasks"] == {"started": 1}


def test_counts_are_of_all_since_the_reset(reception):
    with client(reception) as one:
        post(one, "/ingest/", CELERYRADAR[2])
        assert reception.counts()["tasks"] == {"started": 1}
        post(one, "/ingest/", CELERYRADAR[3])
        assert reception.counts()["tasks"] == {"started": 1, "succeeded": 1}
        reception.reset()
        assert reception.counts()["tasks"] == {}
        assert reception.totals()["requests"] == 0


def test_chunks_are_refused_and_counted(reception):
    with client(reception) as one:
        with contextlib.suppress(ConnectionError):  # refused before the chunks are sent
            one.request("POST", "/ingest/", iter([b"{}"]), {}, encode_chunked=True)
        assert one.getresponse().status == 411
    assert reception.totals()["refused"] == 1


def test_errors_are_500_and_nothing_is_kept(reception):
    reception.become("errors")
    with client(reception) as one:
        assert post(one, "/ingest/", CELERYRADAR[2]) == 500
        reception.become("up")
        assert post(one, "/ingest/", CELERYRADAR[3]) == 200
    counts = reception.counts()
    assert counts["tasks"] == {"succeeded": 1}
    assert (counts["requests"], counts["refused"]) == (1, 1)


def test_slow_answers_wait_beside_each_other(reception):
    reception.become("slow")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client(reception)) for _ in range(200)]
        for one in clients:
            one.connect()
        begun = time.monotonic()
        for one in clients:
            one.request("POST", "/ingest/", CELERYRADAR[2])
        assert {one.getresponse().status for one in clients} == {200}
        took = time.monotonic() - begun
    assert 0.05 <= took < 200 * 0.05
    assert reception.totals()["requests"] == 200


def test_a_black_hole_takes_nothing_and_ends(reception):
    with client(reception) as before, client(reception, timeout=0.3) as during:
        post(before, "/ingest/", CELERYRADAR[2])
        reception.become("black-hole")
        patience = before.sock.gettimeout()
        before.sock.settimeout(0.3)
        before.request("POST", "/ingest/", CELERYRADAR[3])
        with pytest.raises(TimeoutError):
            before.getresponse()
        before.sock.settimeout(patience)
        with pytest.raises(TimeoutError):
            during.connect()
        assert reception.totals()["state"] == "black-hole"
        reception.become("up")
        # What was sent into it is lost, and its connections with it.
        with pytest.raises(ConnectionResetError):
            before.sock.recv(1)
    assert reception.counts()["tasks"] == {"started": 1}
    with client(reception) as after:
        assert post(after, "/ingest/", CELERYRADAR[4]) == 200
    assert reception.counts()["tasks"] == {"failed": 1, "started": 1}


def test_there_are_no_other_states(reception):
    with pytest.raises(ValueError, match="down"):
        reception.become("down")


def test_settling_ends_when_nothing_comes_of_tasks(reception):
    ended = threading.Event()

    def beat() -> None:
        with client(reception) as one:
            post(one, "/ingest/", CELERYRADAR[2])
            while not ended.wait(0.02):
                post(one, "/ingest/", CELERYRADAR[1])

    heart = threading.Thread(target=beat)
    heart.start()
    wait_for(lambda: reception.counts()["other"] > 2, what="some heartbeats")
    begun = time.monotonic()
    counts = reception.settle(0.2, 60)
    took = time.monotonic() - begun
    ended.set()
    heart.join()
    assert took < 50
    assert counts["tasks"] == {"started": 1}


def test_a_receiver_ends_with_its_owner():
    with Reception(named("sluice")) as one:
        process = one._process
    assert process.returncode == 0


def test_a_receiver_that_cannot_listen_to_its_broker_says_so(capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RuntimeError, match="did not start"):
        Reception(named("stemtrace"), f"redis://127.0.0.1:{port}/0").__enter__()
    assert "ConnectionRefusedError" in capfd.readouterr().err


@pytest.mark.redis
def test_celerys_own_events_are_heard(redis_broker):
    with (
        Celery("bench", broker=redis_broker.url) as app,
        Reception(named("celery-events"), redis_broker.url) as one,
        app.events.default_dispatcher(hostname="w@h") as dispatcher,
    ):
        for kind in ("task-received", "task-started", "task-succeeded"):
            dispatcher.send(kind, uuid=NOOP)
        dispatcher.send("worker-heartbeat")
        wait_for(lambda: one.counts()["other"])
        counts = one.counts()
    assert counts["tasks"] == {"received": 1, "started": 1, "succeeded": 1}
    assert counts["bytes"] > 500


@pytest.mark.redis
def test_stemtraces_stream_is_read_once(redis_broker):
    with (
        Reception(named("stemtrace"), redis_broker.url) as one,
        redis_broker.server.client(redis_broker.space) as redis,
    ):
        for entry in STEMTRACE:
            redis.xadd("stemtrace:events", {"data": entry})
        wait_for(lambda: one.totals()["bytes"])
        wait_for(lambda: one.counts()["events"] == 3)
        redis.xadd("stemtrace:events", {"data": STEMTRACE[-1]})
        wait_for(lambda: one.counts()["repeated"] == 1)
        counts = one.counts()
    assert counts["tasks"] == {"sent": 1, "started": 1, "succeeded": 1}
    assert (counts["other"], counts["unreadable"]) == (1, 0)


# --- environments ---------------------------------------------------------------------------------

CONSTRAINTS = "celery==1\nkombu==2\nredis==3\ngevent==4\neventlet==5\nother==6\n"


def test_every_environment_has_the_same_celery():
    same = ["celery[redis]==1", "kombu==2", "redis==3", "gevent==4", "eventlet==5"]
    assert pins(CONSTRAINTS) == same
    assert len(pins((environments.ROOT / "constraints.txt").read_text())) == 5
    with pytest.raises(ValueError, match="kombu, redis"):
        pins("celery==1\ngevent==4\neventlet==5\n")


def test_the_key_of_an_environment_is_of_all_that_goes_into_it():
    peer = Peer("p", "P", requirements=("a==1", "b==2"))
    mine = key(peer, CONSTRAINTS, "3.12.1", "tree")
    assert mine == key(peer, CONSTRAINTS, "3.12.1", "another tree")
    assert mine == key(Peer("q", "Q", requirements=("b==2", "a==1")), CONSTRAINTS, "3.12.1")
    assert mine != key(peer, CONSTRAINTS, "3.12.2")
    assert mine != key(peer, CONSTRAINTS.replace("6", "7"), "3.12.1")
    assert mine != key(Peer("p", "P", requirements=("a==1",)), CONSTRAINTS, "3.12.1")
    ours = Peer("p", "P", checkout=True)
    assert key(ours, CONSTRAINTS, "3", "tree") != key(ours, CONSTRAINTS, "3", "another tree")


def test_the_checkout_is_another_when_a_file_is(tmp_path):
    (tmp_path / "sluice").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    module = tmp_path / "sluice" / "a.py"
    module.write_text("a = 1")
    first = environments.digest(tmp_path)
    (tmp_path / "README.md").write_text("not installed")
    assert environments.digest(tmp_path) == first
    module.write_text("a = 2")
    assert environments.digest(tmp_path) != first


def test_variants_with_the_same_installed_share_an_environment(tmp_path):
    made = Environments(tmp_path)
    shared = {made.path(named(name)) for name in ("nothing", "nothing-again", "celery-events")}
    assert len(shared) == 1
    assert made.path(named("floor")) == made.path(named("sluice"))
    assert len({made.path(peer) for peer in PEERS}) == len(PEERS) - 3


def test_an_environment_is_made_once_and_never_used_in_part(tmp_path, monkeypatch):
    made = []

    def make(self: Environments, peer: Peer, path: Path) -> None:
        assert not path.exists()
        path.mkdir()
        made.append(peer.name)

    monkeypatch.setattr(Environments, "_make", make)
    some = Environments(tmp_path)
    some.path(named("sentry")).mkdir()  # somebody was interrupted
    assert some.python(named("sentry")) == some.path(named("sentry")) / "bin" / "python"
    some.python(named("sentry"))
    some.python(named("nothing"))
    some.python(named("nothing-again"))
    assert made == ["sentry", "nothing"]


def test_a_peer_that_cannot_be_had_is_left_out_with_a_reason(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && echo 3.12.0 && exit\necho "no network" >&2\nexit 7'
    )
    python.chmod(0o755)
    some = Environments(tmp_path / "made", python=str(python))
    with pytest.raises(Unavailable, match="no network"):
        some.python(named("stemtrace"))
    pythons, failures = some.all([named("stemtrace")])
    assert pythons == {}
    assert "leave this variant out" in failures["stemtrace"]
    assert "stemtrace==0.4.5" in failures["stemtrace"]


def test_the_versions_of_an_environment_are_told(tmp_path):
    site = tmp_path / "lib" / "python3.12" / "site-packages"
    (site / "sentry_sdk-2.75.0.dist-info").mkdir(parents=True)
    assert versions(tmp_path / "bin" / "python") == {"sentry-sdk": "2.75.0"}


# --- the peers ------------------------------------------------------------------------------------


def test_versions_are_exact():
    requirements = [one for peer in PEERS for one in peer.requirements]
    assert requirements
    assert all("==" in one for one in requirements)


def test_names_are_found_or_listed():
    assert named("sentry").title == "sentry-sdk"
    with pytest.raises(ValueError, match="there are nothing, nothing-again, sluice"):
        named("sentri")


def test_every_module_is_there_and_belongs_to_somebody():
    modules = {path.stem.removeprefix("peer_") for path in WORKLOAD.glob("peer_*.py")}
    assert modules == {peer.module for peer in PEERS if peer.module}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(WORKLOAD.glob("*.py")), ids=lambda path: path.stem)
def test_the_workload_imports_only_what_its_environment_has(path):
    own = {
        "app": {"watching"},
        "watching": {"gevent", "eventlet"},
        "peer_celeryradar": {"celeryradar_sdk"},
        "peer_floor": {"peer_sluice", "sluice"},
        "peer_opentelemetry": {"opentelemetry"},
        "peer_sentry": {"sentry_sdk"},
        "peer_sluice": {"sluice"},
        "peer_sluice_celery": {"sluice"},
        "peer_stemtrace": {"stemtrace"},
    }.get(path.stem, set())
    assert imports(path) - sys.stdlib_module_names <= {"celery", "given"} | own


def test_a_worker_is_told_everything_and_inherits_no_setting(monkeypatch):
    for name in ("SLUICE_API_URL", "OTEL_SDK_DISABLED", "PYTHONPATH", "BENCH_PEER", "https_proxy"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LANG_OF_SOMEBODY", "kept")
    env = replace(named("sentry"), options={"debug": True}).environment(
        "redis://h/1", "gevent", url="http://h:1", conf={"a": 1}, extra={"MORE": "1"}
    )
    assert {name: env[name] for name in env if name.startswith("BENCH_")} == {
        "BENCH_BROKER_URL": "redis://h/1",
        "BENCH_POOL": "gevent",
        "BENCH_PEER": "sentry",
        "BENCH_URL": "http://h:1",
        "BENCH_CONF": '{"a": 1}',
        "BENCH_OPTIONS": '{"debug": true}',
    }
    assert (env["LANG_OF_SOMEBODY"], env["MORE"]) == ("kept", "1")
    assert not {"SLUICE_API_URL", "OTEL_SDK_DISABLED", "PYTHONPATH", "https_proxy"} & set(env)


def test_only_celerys_events_are_asked_for():
    started = {
        peer.name: peer.command(Path("python"), "solo", args=["-l", "INFO"]) for peer in PEERS
    }
    assert [name for name, words in started.items() if "-E" in words] == ["celery-events"]
    assert started["nothing"][:8] == "python -m celery -A app worker -P solo".split()
    assert started["nothing"][-2:] == ["-l", "INFO"]


TRY_THE_TASKS = """
import time, app
tasks = app.app.tasks
used = time.thread_time()
tasks["bench.cpu"].apply((0.02,), throw=True)
print(time.thread_time() - used)
begun = time.monotonic()
tasks["bench.sleep"].apply((0.02,), throw=True)
print(time.monotonic() - begun)
failed = tasks["bench.fail"].apply((60,))
print(failed.traceback.count("File "), type(failed.result).__name__)
print(tasks["bench.noop"].ignore_result, app.app.conf.task_acks_late)
"""


def test_the_tasks_do_what_they_say():
    env = {"BENCH_CONF": '{"task_acks_late": true}', "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", TRY_THE_TASKS],
        cwd=WORKLOAD,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    cpu, slept, failure, settings = done.stdout.splitlines()
    assert 0.02 <= float(cpu) < 0.1
    assert float(slept) >= 0.02
    frames, kind = failure.split()
    assert (int(frames) >= 60, kind) == (True, "ValueError")
    assert settings == "True True"
