"""Canaries: what tasks are given and give back is in nothing that Sluice sends, logs or stores.

Every argument, keyword argument, result and header has the word CANARY in it, and every number the
digits of NUMBER. The API is held back while the tasks run, so that everything is in the ring files.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sluice.testing import Answer, IngestServer
from tests.harness import API_KEY, POOLS, Worker, client_app, wait_for
from tests.harness.brokers import valkey_space
from tests.pools.plan import GATE, HARD_LIMIT, Kind, messages, new_id
from tests.pools.run import send_invalid, sender, sent_by
from tests.pools.timeline import Timeline, timelines, what
from tests.pools.waiting import FAILS, FAST, PLAIN, wait_lives

pytestmark = [pytest.mark.pool, pytest.mark.redis]

NUMBER = 4007000123456789
CANARY = "CANARY-argument"
MORE = {
    "order": {
        "lines": [{"customer": "CANARY nested", "note": "CANARY \"quoted' \n text"}],
        "account": NUMBER,
        "price": float(f"{NUMBER}.5"),
    },
}
IGNORED = ("received started ignored",)
RETRIED = ("received started retried",)


def kind(name, task, attempts, *args, pools=POOLS, **more):
    options = {"headers": {"x-tenant": "CANARY-header"}, **more.pop("options", {})}
    kwargs = {"more": MORE | more}
    return Kind(name, task, attempts, args, kwargs, options=options, pools=pools)


def fails(how, x=CANARY, **more):
    return kind(how, "private.use", FAILS, how, x, **more)


KINDS = [
    kind("return", "private.use", PLAIN, "return", CANARY),
    *(
        fails(how)
        for how in (
            *("quoted", "KeyError", "look-up", "int()", "float()", "repr of all", "nested"),
            *("nested number", "own text", "chained", "group", "note", "unpicklable"),
            *("assert", "Reject", "unencodable result", "secrets"),
        )
    ),
    fails("quoted", NUMBER),
    fails("repr of all", "CANARY \"quoted' \n text"),
    fails("KeyError", "CANARY \u00e9t\u00e9"),
    kind("Ignore", "private.use", IGNORED, "Ignore", CANARY),
    kind("then ok", "private.again", (*RETRIED, *PLAIN), "then ok", CANARY),
    kind("exceed", "private.again", (*RETRIED, *FAILS), "exceed", CANARY),
    kind("exceed, own", "private.again", (*RETRIED, *FAILS), "exceed, own", CANARY),
    kind("hard limit", "private.sleep", FAILS, CANARY, pools=HARD_LIMIT),
    kind("soft limit", "private.sleep_softly", FAILS, CANARY, pools=("prefork",)),
    kind("sends", "private.send", PLAIN, CANARY),
    kind("expired", "private.use", ("revoked",), "return", CANARY, options={"expires": 0.001}),
    kind("unknown", "private.unknown", ("unknown",), "return", CANARY),
]
HARD = {
    "dict key": fails("nested key", **{"by customer": {"CANARY-key": 1}}),
    "long, shown in part": fails("int()", "".join(f"CANARY {n} " for n in range(100))),
    "too long to be shown": fails("quoted", "CANARY" * 5000),
    "one of many": fails("many", many=[f"CANARY {n}" for n in range(150)]),
    "JSON": fails("JSON", "CANARY \u00e9t\u00e9"),
    "URL": fails("URL", "CANARY at example"),
}


@dataclass
class Traces:
    """Everything that Sluice left behind while it worked."""

    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    rings: list[bytes] = field(default_factory=list)
    #: The signs of life beside the rings, which name the tasks that are active.
    signs: list[bytes] = field(default_factory=list)
    log: str = ""
    output: str = ""
    command_lines: str = ""
    lines: dict[str, Timeline] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)


def leave_traces(pool: str, broker, folder: Path, kinds: list[Kind]) -> Traces:
    """Send all kinds, run them while the API is held back, then let it answer."""
    traces = Traces()
    gate = threading.Event()
    held = threading.Event()

    def hold(received):
        if gate.is_set():
            return Answer()
        if not held.is_set():  # one refusal, so that there is something to log
            held.set()
            return Answer(503)
        gate.wait(40)
        return Answer()

    env = {
        "result_url": broker.result_url,
        "spool_dir": folder / "spool",
        "extra": FAST | {"SLUICE_DEBUG": "1", "SLUICE_LOG": str(folder / "log")},
    }
    env["extra"] |= {"PLAN_APP": "tests.pools.apps.private", "SLUICE_REQUEST_TIMEOUT": "5,45"}
    with (
        IngestServer() as ingest,
        client_app(broker.url, broker.result_url) as client,
    ):
        env["ingest_url"] = ingest.url
        for name in ("go", GATE):
            (folder / name).touch()
        with sender(broker, list(messages(kinds, {})), folder, **env) as script:
            assert script.wait() == 0
            sent = sent_by(script, kinds)
            traces.output += script.output(1000)
            traces.ids = {one.kind.name: one.task_id for one in sent}
        invalid = new_id()
        send_invalid(client)
        client.send_task("private.unknown", (CANARY,), task_id=invalid)
        ingest.answer = hold
        worker = Worker(broker.url, pool=pool, concurrency=4, app="tests.pools.apps.private", **env)
        with worker:
            lives = {one.task_id: one.kind.attempts for one in sent}
            worker.wait_ready()
            processes = [worker.pid, *(child.pid for child in worker.children())]
            for pid in processes:
                traces.command_lines += Path(f"/proc/{pid}/cmdline").read_text()

            def contents(pattern: str) -> Iterator[bytes]:
                for path in (folder / "spool").glob(pattern):
                    with contextlib.suppress(FileNotFoundError):  # of a child that was killed
                        yield path.read_bytes()

            def all_there() -> bool:
                """Every last event is in the ring of MAIN."""
                traces.rings = list(contents("*.ring"))
                traces.signs += contents("*.alive")
                text = b"".join(traces.rings)
                return all(
                    text.count(task_id.encode()) >= len(" ".join(attempts).split())
                    for task_id, attempts in lives.items()
                )

            wait_for(all_there, 30, "all events in the ring files")
            gate.set()
            traces.lines = wait_lives(ingest, lives, sent=True)
            assert worker.stop().code == 0
            traces.output += worker.output(10_000)
        traces.log = (folder / "log").read_text()
        traces.bodies = [request.body for request in ingest.requests]
        traces.headers = [request.headers for request in ingest.requests]
        traces.lines |= timelines(ingest.events())
    return traces


@pytest.fixture(
    scope="module",
    # Those of one worker in one process, or each process would make its own.
    params=[pytest.param(pool, marks=pytest.mark.xdist_group(f"traces-{pool}")) for pool in POOLS],
)
def traces(request, valkey, tmp_path_factory):
    kinds = [kind for kind in KINDS if request.param in kind.pools]
    with valkey_space(valkey) as broker:
        yield leave_traces(request.param, broker, tmp_path_factory.mktemp("traces"), kinds)


def test_no_argument_result_or_header_is_in_a_request(traces):
    leaks = [
        event
        for line in traces.lines.values()
        for event in line.events
        if "CANARY" in str(event) or str(NUMBER) in str(event)
    ]
    assert leaks == []
    for body in traces.bodies:
        assert b"CANARY" not in body
        assert str(NUMBER).encode() not in body
        assert b"no time at all" not in body  # the malformed task's


def test_a_secret_that_is_no_argument_is_taken_out_by_default(traces):
    failed = traces.lines[traces.ids["secrets"]].end["job"]
    for text in (failed["error"], failed["stacktrace"]):
        assert "no answer from https://" in text
        assert "db.example/rows" in text
        assert text.count("[secret]") == 7
        assert "4111" not in text


def test_none_is_in_a_file_of_the_spool_folder(traces):
    assert len(traces.rings) >= 1
    assert any(traces.signs)
    for ring in (*traces.rings, *traces.signs):
        assert b"CANARY" not in ring
        assert str(NUMBER).encode() not in ring
        assert b"no time at all" not in ring


def test_none_is_in_a_line_of_our_logger(traces):
    assert "[sluice] On: " in traces.log
    assert "[sluice] Events cannot be delivered now" in traces.log
    assert "CANARY" not in traces.log
    assert str(NUMBER) not in traces.log


def test_the_canaries_were_there_to_be_seen(traces):
    """Celery's own log shows what Sluice does not."""
    assert traces.output.count("CANARY") > 20
    assert str(NUMBER) in traces.output
    told = [event["job"] for line in traces.lines.values() for event in line.told]
    errors = [job["error"] for job in told if "error" in job]
    assert sum("[argument]" in error for error in errors) >= 15
    assert any("Can't retry private.again" in error for error in errors)
    assert sum("[argument]" in job.get("stacktrace", "") for job in told) >= 15
    assert {what(event) for line in traces.lines.values() for event in line.told} >= {
        *("succeeded", "failed", "retried", "ignored", "unknown", "rejected", "revoked"),
    }


def test_the_api_key_is_in_the_authorization_header_alone(traces):
    assert traces.headers
    for headers in traces.headers:
        assert headers.pop("authorization") == f"Bearer {API_KEY}"
        assert API_KEY not in str(headers)
    key = API_KEY.encode()
    assert not any(key in body for body in traces.bodies)
    assert not any(key in file for file in (*traces.rings, *traces.signs))
    assert API_KEY not in traces.log
    assert API_KEY not in traces.output
    assert API_KEY not in traces.command_lines
    assert "celery" in traces.command_lines


@pytest.fixture(scope="module")
def hard_traces(valkey, tmp_path_factory):
    with valkey_space(valkey) as broker:
        kinds = [
            Kind(name, kind.task, kind.attempts, kind.args, kind.kwargs)
            for name, kind in HARD.items()
        ]
        yield leave_traces("gevent", broker, tmp_path_factory.mktemp("traces"), kinds)


@pytest.mark.xdist_group("hard cases")
@pytest.mark.parametrize("name", HARD)
def test_hard_cases(name, hard_traces):
    line = hard_traces.lines[hard_traces.ids[name]]
    assert [event["job"]["error"] for event in line.events if "CANARY" in str(event)] == []
