"""`init()` in web projects under the servers that people run: no cost until a task is sent."""

import sys

import psutil
import pytest

from sluice.testing import Answer
from tests.doubles import run_python
from tests.faults.web.servers import WebServer, gunicorn, uvicorn
from tests.harness import environment, wait_for
from tests.pools.waiting import PATIENT, sent_counts

pytestmark = pytest.mark.redis

TIMEOUT = 2.0  # the default of shutdown_timeout
#: gunicorn's gevent worker looks once a second whether it is to end, sooner or later by chance.
LOOK = 1.5

SERVERS = {
    "django, gunicorn sync": gunicorn("django", "sync"),
    "flask, gunicorn sync, preloaded": gunicorn("flask", "sync", "--preload"),
    "flask, gunicorn gthread": gunicorn("flask", "gthread", "--threads", "2"),
    "django, gunicorn gthread, preloaded": gunicorn(
        "django", "gthread", "--threads", "2", "--preload"
    ),
    "flask, gunicorn gevent": gunicorn("flask", "gevent"),
    "django, gunicorn gevent, preloaded": gunicorn("django", "gevent", "--preload"),
    "fastapi, gunicorn asgi": gunicorn("fastapi", "asgi"),
    "fastapi, gunicorn uvicorn": gunicorn("fastapi", "uvicorn.workers.UvicornWorker"),
    "fastapi, uvicorn": uvicorn("fastapi"),
}


#: One of each way in which a server's processes end.
IN_TIME = (
    "flask, gunicorn gthread",
    "flask, gunicorn sync, preloaded",
    "django, gunicorn gevent, preloaded",
    "fastapi, uvicorn",
)


@pytest.fixture
def surroundings(redis_broker, spool_dir, ingest):
    """The environment of a process that has Sluice or, with init=False, has not."""

    def make(**kwargs):
        return environment(redis_broker.url, ingest_url=ingest.url, spool_dir=spool_dir, **kwargs)

    return make


@pytest.fixture
def start(start_process, surroundings):
    return lambda name, **kwargs: WebServer(start_process, SERVERS[name], surroundings(**kwargs))


def sent(answers):
    """The ids that the processes said they sent."""
    return [task_id for _, task_id, _ in answers]


@pytest.mark.parametrize("name", SERVERS)
def test_a_web_server(name, start, spool_dir, ingest):
    """Nothing is there until a task is sent; all is delivered when the server has ended."""
    without, web = start(name, init=False), start(name, extra=PATIENT)
    usual = {threads for _, threads, _ in without.ask_all("/quiet")}
    usual_master = psutil.Process(without.process.pid).num_threads()
    usual_end = without.process.stop()

    asked = web.ask_all("/quiet")
    assert {transport for *_, transport in asked} == {"none"}
    assert {threads for _, threads, _ in asked} == usual
    assert list(spool_dir.glob("*")) == []

    answers = web.ask_all("/send")
    strategy = "gevent threadpool" if "gevent" in name else "thread"
    assert {transport for *_, transport in answers} == {strategy}
    assert psutil.Process(web.process.pid).num_threads() == usual_master
    end = web.process.stop()  # at once: what was sent last is delivered by those who end
    assert sent_counts(ingest) == dict.fromkeys(sent(answers), 1)
    assert end.code == usual_end.code
    assert list(spool_dir.glob("*")) == []
    assert web.process.matching("Traceback") == web.process.matching("[sluice]") == []


@pytest.mark.alone
@pytest.mark.parametrize("name", IN_TIME)
def test_a_web_server_ends_in_time(name, start, ingest):
    without, web = start(name, init=False), start(name)
    without.ask_all("/quiet")
    web.ask_all("/send")
    usual_end, end = without.process.stop(), web.process.stop()
    assert end.seconds < usual_end.seconds + TIMEOUT


@pytest.mark.alone
@pytest.mark.parametrize("name", IN_TIME)
def test_a_web_server_ends_in_time_when_the_api_hangs(name, start, spool_dir, ingest):
    """What was sent waits in a ring for each process that sent it."""
    ingest.answer = Answer(fault="hang")
    without, web = start(name, init=False), start(name)
    without.ask_all("/quiet")
    answers = web.ask_all("/send")
    usual_end, end = without.process.stop(), web.process.stop()
    assert end.code == usual_end.code
    assert end.seconds < usual_end.seconds + TIMEOUT + LOOK
    rings = [ring.read_bytes() for ring in spool_dir.glob("*.ring")]
    assert len(rings) == len({pid for pid, *_ in answers})
    assert all(sum(one.encode() in ring for ring in rings) == 1 for one in sent(answers))


def test_a_management_command(start_process, surroundings, spool_dir, ingest):
    settings = PATIENT | {"DJANGO_SETTINGS_MODULE": "tests.faults.web.shop.settings"}

    def order(number):
        argv = [sys.executable, "-m", "django", "order", str(number)]
        command = start_process(argv, env=surroundings(extra=settings), name="order")
        assert command.wait(30) == 0
        return command

    (line,) = order(0).matching("QUIET")
    assert line.split()[2:] == ["1", "none"]
    assert list(spool_dir.glob("*")) == ingest.requests == []
    answers = [line.split()[1:] for line in order(30).matching("SENT")]
    assert len(answers) == 30
    assert sent_counts(ingest) == dict.fromkeys(sent(answers), 1)
    assert list(spool_dir.glob("*")) == []


def test_a_daemon_that_forks_its_workers(start_process, surroundings, spool_dir, ingest):
    """`init()` in a process that is gone when its grandchildren send, as under uWSGI."""
    argv = [sys.executable, "-m", "tests.faults.web.daemon", "20"]
    daemon = start_process(argv, env=surroundings(extra=PATIENT), name="daemon")
    assert daemon.wait(20) == 0
    wait_for(lambda: not daemon._drain.is_alive(), 30, "the last process to close the output")
    quiet = [line.split()[1:] for line in daemon.matching("QUIET")]
    assert [(threads, transport) for _, threads, transport in quiet] == [("1", "none")] * 3
    answers = [line.split()[1:] for line in daemon.matching("SENT")]
    assert {pid for pid, *_ in answers} == {pid for pid, *_ in quiet}
    assert len(answers) == 3 * 20
    assert sent_counts(ingest) == dict.fromkeys(sent(answers), 1)
    assert list(spool_dir.glob("*")) == []


def test_gevent_that_patches_after_init_and_a_fork(spool_dir, ingest):
    """As in a preloaded gunicorn: the hub waits for no copying, and the sender is native."""
    run_python(
        """
        import gc, os, sys, time
        import gevent.monkey
        from gevent.hub import Hub
        from tests.harness.apps.basic import ok
        import sluice
        from sluice import native

        if child := os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        native.load = native.load_island = None  # not to be called any more
        gevent.monkey.patch_all()
        ok.delay()
        assert sluice.stats().transport == "gevent threadpool", sluice.stats()
        until = time.monotonic() + 20
        while not sluice.stats().delivered:  # no greenlet gets a turn here
            assert time.monotonic() < until
        assert sum(isinstance(one, Hub) for one in gc.get_objects()) == 1  # none of the sender's
        """,
        SLUICE_API_URL=ingest.url,
        SLUICE_SPOOL_DIR=str(spool_dir),
    )
    assert list(sent_counts(ingest).values()) == [1]
    assert list(spool_dir.glob("*")) == []
