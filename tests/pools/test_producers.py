"""`sent`, from every kind of process that sends tasks."""

import json
import sys
import textwrap

import pytest

from sluice.testing import Answer
from tests.harness import environment
from tests.harness.processes import ROOT

pytestmark = [pytest.mark.pool, pytest.mark.redis]

PATCHES = {
    "plain": "",
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore')\n"
    "import eventlet; eventlet.monkey_patch()",
}
BEGIN = "from tests.harness.apps.basic import app, ok\nimport os, sluice, sys, threading, time\n"


@pytest.fixture
def run(redis_broker, start_process, ingest, spool_dir):
    """Run a script to its end: what it printed as JSON, and the seconds it took to end."""

    def run(code: str, patch: str = "", *, seconds: float = 20):
        script = start_process(
            [sys.executable, "-c", f"{patch}\n{BEGIN}{textwrap.dedent(code)}"],
            env=environment(redis_broker.url, ingest_url=ingest.url, spool_dir=spool_dir),
            cwd=ROOT,
            name="script",
        )
        assert script.wait(seconds) == 0, script.output()
        return [json.loads(line) for line in script.lines if line.startswith(("{", "[", '"'))]

    return run


def sent(ingest) -> list[dict]:
    return [
        e["job"] for e in ingest.events() if e["job"]["extensions"]["celeryEvent"] == "task-sent"
    ]


@pytest.mark.parametrize("kind", PATCHES)
def test_a_script_that_ends_at_once_delivers(kind, run, ingest):
    run("for n in range(10): ok.delay(n)", PATCHES[kind])
    jobs = sent(ingest)
    assert len(jobs) == 10
    assert {(j["name"], j["state"], j["queue"], j["attempt"]) for j in jobs} == {
        ("basic.ok", "queued", "celery", 1)
    }
    assert all(j["rootId"] == j["externalId"] and "createdAt" in j for j in jobs)


@pytest.mark.parametrize("kind", PATCHES)
def test_a_script_ends_in_time_while_the_api_hangs(kind, run, ingest):
    ingest.answer = Answer(fault="hang")
    (told,) = run(
        """
        import atexit, json
        ok.delay(1)
        time.sleep(0.1)
        begun = time.monotonic()
        atexit._run_exitfuncs()
        print(json.dumps({"seconds": time.monotonic() - begun}), flush=True)
        """,
        PATCHES[kind],
    )
    assert told["seconds"] < 3.0


@pytest.mark.parametrize("kind", PATCHES)
def test_a_process_that_sends_nothing_has_no_thread_of_ours(kind, run):
    (told,) = run(
        """
        import json
        print(json.dumps({"threads": len(os.listdir("/proc/self/task")),
                          "stats": sluice.stats().captured}), flush=True)
        """,
        PATCHES[kind],
    )
    assert told == {"threads": 1, "stats": 0}


def test_every_thread_of_a_process_is_heard(run, ingest):
    run(
        """
        threads = [threading.Thread(target=lambda: [ok.delay(n) for n in range(25)])
                   for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """
    )
    assert len(sent(ingest)) == 200


def test_processes_that_are_forked_after_init_send_for_themselves(run, ingest):
    """As in a web server with preload: initialised in the parent, used in the children."""
    run(
        """
        import multiprocessing
        def serve(n):
            for _ in range(n): ok.delay(n)
            assert sluice.flush(10)
        context = multiprocessing.get_context("fork")
        servers = [context.Process(target=serve, args=(n,)) for n in (3, 4)]
        for server in servers: server.start()
        for server in servers: server.join()
        assert [server.exitcode for server in servers] == [0, 0]
        pid = os.fork()
        if pid == 0:
            ok.delay(1)
            sys.exit(0)  # by way of atexit
        os.waitpid(pid, 0)
        """
    )
    assert len(sent(ingest)) == 8
    rings = {j["extensions"]["eventId"].partition("-")[0] for j in sent(ingest)}
    assert len(rings) == 3


def test_canvas_is_sent_with_parents_and_roots(run, ingest):
    run(
        """
        from celery import chain, group
        (ok.si(1) | ok.si(2)).apply_async()
        group(ok.si(n) for n in range(3)).apply_async()
        app.send_task("elsewhere.task", queue="other", countdown=60)
        """
    )
    jobs = sent(ingest)
    assert len(jobs) == 1 + 3 + 1  # the chain's second is sent by whoever runs the first
    elsewhere = next(j for j in jobs if j["name"] == "elsewhere.task")
    assert elsewhere["queue"] == "other"
    assert elsewhere["scheduledFor"] > elsewhere["createdAt"]


def test_beat_sends(redis_broker, start_process, ingest, spool_dir, tmp_path):
    conf = {"beat_schedule": {"tick": {"task": "basic.ok", "schedule": 0.2}}}
    beat = start_process(
        [
            *(sys.executable, "-m", "celery", "-A", "tests.harness.apps.basic", "beat"),
            *("-l", "INFO", "--schedule", str(tmp_path / "schedule"), "--pidfile="),
        ],
        env=environment(
            redis_broker.url, ingest_url=ingest.url, spool_dir=spool_dir, conf=conf,
            extra={"SLUICE_FLUSH_INTERVAL": "0.2"},
        ),
        cwd=ROOT, name="beat",
    )  # fmt: skip
    assert ingest.wait_for(lambda server: len(sent(server)) >= 3, 20), beat.output()
    assert beat.stop().code == 0
