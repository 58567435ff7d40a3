"""What is called before a process ends, however it ends of its own accord."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.harness import environment

CODE = """
import os, signal, sys
from sluice.ending import call_before_the_end

def say(text):
    os.write(1, text.encode() + b"\\n")

def call():
    say("CALLED")

for _ in range(2):
    call_before_the_end(call)
{end}
say("GOES ON")
"""


@pytest.fixture
def end(start_process):
    """Run a process that ends in some way: its exit code, and what it said."""

    def run(how: str) -> tuple[int, list[str]]:
        argv = [sys.executable, "-c", CODE.format(end=how)]
        process = start_process(argv, env=environment(), name="ends")
        code = process.wait(20)
        process._drain.join(10)
        return code, process.lines

    return run


def test_the_end_of_a_script(end):
    assert end("") == (0, ["GOES ON", "CALLED"])


def test_an_exit(end):
    assert end("sys.exit(3)") == (3, ["CALLED"])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_a_signal_that_a_process_sends_to_itself(end, name):
    """uvicorn's way: the process is dead by the signal, as it would be without us."""
    number = signal.Signals[name]
    how = f"signal.signal({number}, signal.SIG_DFL); signal.raise_signal({number})"
    assert end(how) == (-number, ["CALLED"])


def test_a_signal_that_has_a_handler_is_no_end(end):
    how = "signal.signal(15, lambda *_: say('HANDLED')); signal.raise_signal(15)"
    assert end(how) == (0, ["HANDLED", "GOES ON", "CALLED"])


def test_a_signal_that_is_ignored_is_no_end(end):
    how = "signal.signal(15, signal.SIG_IGN); signal.raise_signal(15)"
    assert end(how) == (0, ["GOES ON", "CALLED"])


def test_a_signal_of_another_kind_is_no_end(end):
    assert end("signal.raise_signal(signal.SIGWINCH)") == (0, ["GOES ON", "CALLED"])


def test_a_wrong_argument_is_python_s_own_error(end):
    code, lines = end("signal.raise_signal('TERM')")
    assert code == 1
    assert "TypeError" in lines[-2]
    assert lines[-1] == "CALLED"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_multiprocessing(end, method):
    """One that is forked ends without `atexit` before Python 3.13; the others call twice."""
    how = f"""
import multiprocessing
from tests.test_ending import child_of_multiprocessing
process = multiprocessing.get_context("{method}").Process(target=child_of_multiprocessing)
process.start()
process.join()
os._exit(process.exitcode)
"""
    once = method == "fork" and sys.version_info < (3, 13)
    assert end(how) == (0, ["CALLED IN THE CHILD"] * (1 if once else 2))


def child_of_multiprocessing() -> None:
    from sluice.ending import call_before_the_end

    call_before_the_end(lambda: print("CALLED IN THE CHILD", flush=True))
