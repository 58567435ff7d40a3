"""`sluice demo` as it is typed: it ends by itself, and its exit code is the verdict."""

import re
import sys

import psutil
import pytest

import sluice
from tests.doubles import run_python
from tests.harness import environment

pytestmark = [pytest.mark.pool, pytest.mark.redis]


@pytest.fixture
def demo(start_process):
    def start(*options):
        argv = [sys.executable, "-m", "sluice", "demo", "--tasks", "8", *options]
        return start_process(argv, env=environment(), name="demo")

    return start


@pytest.mark.parametrize(("options", "pools"), [((), 3), (("--pools", "solo,threads"), 2)])
def test_it_shows_complete_timelines_and_ends_well(options, pools, demo):
    """Without options: prefork, gevent and eventlet."""
    run = demo(*options)
    assert run.wait(90) == 0, run.output()
    text = "\n".join(run.lines)
    assert f"{8 * pools} of {8 * pools} timelines complete" in text
    assert f"{pools} of {pools} workers seen online, with heartbeats, and offline at the" in text
    assert "no arguments or results in any of" in text
    for column in ("tasks", "wait", "run", "events", "request"):
        assert column in text.lower(), column
    assert "sent +0.0 ms → received" in text, "one timeline is shown"


@pytest.fixture
def worker_of():
    """The worker of a demo with one pool, once it is ready."""

    def find(run) -> psutil.Process:
        run.wait_line("ready.", 40)
        children = psutil.Process(run.pid).children(recursive=True)
        (worker,) = (child for child in children if "worker" in child.cmdline())
        return worker

    return find


def test_timelines_that_are_not_complete_are_told_and_an_error(demo, worker_of):
    run = demo("--pools", "solo", "--timeout", "7", "--verbose")
    worker_of(run).suspend()
    assert run.wait(90) == 1, run.output()
    # The first may be told of before the worker stands still.
    assert re.search(r"\b[0-7] of 8 timelines complete", run.output(last=1000))
    assert run.matching("did not end when it was asked to")


def test_a_worker_that_dies_is_told_and_an_error(demo, worker_of):
    run = demo("--pools", "solo", "--verbose")
    worker = worker_of(run)
    worker.kill()
    assert run.wait(60) == 1, run.output()
    assert run.matching("ended by itself")
    assert not psutil.pid_exists(worker.pid), "nothing is left running"


def test_the_version_is_printed():
    done = run_python("import sys; from sluice.cli import main; sys.exit(main(['version']))")
    assert done.stdout.strip() == sluice.__version__
