"""`sluice tail`: every event once, in order, through a clear or a restart; and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from sluice.commands.address import Address
from sluice.commands.client import Collector
from sluice.commands.ending import NoAnswer, NotReached
from sluice.commands.tail import Follower, is_wanted, line
from sluice.commands.terminal import width
from sluice.demo.screen import Style
from tests.commands.stub import Feed, event
from tests.harness import environment, wait_for
from tests.harness.processes import ROOT

#: As a shell starts it: what is still in the buffer is written when the interpreter ends.
BUFFERED = {"PYTHONUNBUFFERED": None}
PLAIN = Style(colour=False)
#: The command, also where whoever runs the tests has SIGINT ignored, as shells do behind an `&`.
HEARS_CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from sluice.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def feed(stub):
    """The events of the stub."""
    found = stub.answers["events"] = Feed()
    return found


@pytest.fixture
def follower(stub, feed):
    """A follower that has asked where it begins."""
    found = Follower(Collector(Address(stub.api, None)))
    feed.add("before")
    assert found.turn() == ([], False)
    return found


def names(turn) -> list[str]:
    events, _ = turn
    return [entry["event"]["job"]["name"] for entry in events]


# --- following ------------------------------------------------------------------------------------


def test_what_comes_is_told_once_and_what_was_there_is_not(follower, feed):
    assert names(follower.turn()) == []
    feed.add("a")
    feed.add("b")
    assert names(follower.turn()) == ["a", "b"]
    assert names(follower.turn()) == []
    feed.add("c")
    assert names(follower.turn()) == ["c"]


def test_a_full_answer_says_that_there_may_be_more(follower, feed):
    for number in range(700):
        feed.add(str(number))
    events, more = follower.turn()
    assert (len(events), more) == (500, True)
    events, more = follower.turn()
    assert (len(events), more) == (200, False)


def test_after_a_clear_it_goes_on(follower, feed):
    feed.add("a")
    follower.turn()
    feed.entries.clear()
    assert names(follower.turn()) == []
    feed.add("b")
    assert names(follower.turn()) == ["b"]


def test_a_smaller_last_number_is_a_beginning(follower, feed):
    for name in "abc":
        feed.add(name)
    follower.turn()
    feed.entries[:] = []
    feed.add("d")
    assert names(follower.turn()) == ["d"]


def test_a_restart_is_survived_and_nothing_is_missed(stub, follower, feed):
    feed.add("a", at="before")
    follower.turn()
    stub.stop()
    with pytest.raises(NotReached):
        follower.turn()
    stub.start()
    feed.entries[:] = []
    for number, name in enumerate("bcd", start=1):  # more than there were, within the pause
        feed.add(name, seq=number, at="after")
    assert names(follower.turn()) == ["b", "c", "d"]
    assert names(follower.turn()) == []


def test_after_a_pause_of_the_network_nothing_comes_twice(stub, follower, feed):
    feed.add("a")
    follower.turn()
    stub.stop()
    with pytest.raises(NotReached):
        follower.turn()
    stub.start()
    feed.add("b")
    assert names(follower.turn()) == ["b"]


def test_the_last_one_may_have_been_pruned_meanwhile(stub, follower, feed):
    feed.add("a")
    follower.turn()
    stub.stop()
    with pytest.raises(NotReached):
        follower.turn()
    stub.start()
    feed.add("b")
    feed.add("c")
    del feed.entries[:3]
    assert names(follower.turn()) == ["c"]


def test_events_of_workers_that_are_left_out_are_not_asked_for_again(stub, follower):
    stub.answers["events"] = {"events": [], "last": 900}
    follower.turn()
    follower.turn()
    assert [query["after"] for query in stub.queries("events")][-1] == ["900"]


@pytest.mark.parametrize("answer", [{}, {"last": 1}, {"events": 3, "last": 3}, {"events": []}])
def test_what_is_no_feed_is_said(stub, follower, answer):
    stub.answers["events"] = answer
    with pytest.raises(NoAnswer, match="no collector"):
        follower.turn()


# --- lines ----------------------------------------------------------------------------------------


def test_a_line_says_when_what_and_how_long():
    told = line(
        event(
            "orders.charge",
            state="failed",
            workerId="celery@host",
            attempt=2,
            startedAt="2026-01-02T03:04:05Z",
            completedAt="2026-01-02T03:04:05.250Z",
            error="ValueError: no\nmore",
        ),
        None,
        PLAIN,
    )
    assert told.endswith(
        "failed     orders.charge  id-of-orders.charge  celery@host  attempt 2  250 ms"
        "  ValueError: no"
    )


@pytest.mark.parametrize("columns", [1, 20, 40, 80])
def test_a_line_is_harmless_and_fits(columns):
    evil = "\x1b[2J\u202e注文\r\n" * 20
    told = line(event(evil, state=evil[:3], error=evil), columns, PLAIN)
    assert told.isprintable()
    assert width(told) <= max(columns, 40)


def test_times_that_are_none_leave_the_duration_out():
    assert line(event("a", startedAt="soon", completedAt=None), None, PLAIN).endswith("id-of-a")


def test_the_filters():
    failed = event("a", state="failed")
    assert is_wanted(failed, None, None)
    assert is_wanted(failed, ["lost", "failed"], "a")
    assert not is_wanted(failed, ["completed"], None)
    assert not is_wanted(failed, None, "b")
    assert not is_wanted({"worker": {"state": "idle"}}, None, None)


# --- the process ----------------------------------------------------------------------------------


class Tail:
    """The command in a process, with its output read as it comes."""

    def __init__(self, *arguments: str) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEARS_CTRL_C, "tail", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
            text=True,
        )
        self._threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream, lines: list[str]) -> None:
        lines.extend(iter(stream.readline, ""))

    def wait(self) -> int:
        code = self.process.wait(30)
        for thread in self._threads:
            thread.join(10)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture
def tail(stub, feed):
    """Start the command, and wait until it follows."""
    started: list[Tail] = []

    def start(*arguments: str) -> Tail:
        found = Tail("--url", stub.page, *arguments)
        started.append(found)
        wait_for(lambda: len(stub.queries("events")) > 1, 30, "its questions")
        return found

    yield start
    for each in started:
        each.close()


def test_it_prints_events_as_they_arrive_until_ctrl_c(tail, feed):
    following = tail("--state", "completed")
    feed.add("first", state="completed")
    wait_for(lambda: len(following.out) == 1)
    feed.add("left.out", state="failed")
    feed.add("second", state="completed")
    wait_for(lambda: len(following.out) == 2)
    following.process.send_signal(signal.SIGINT)
    assert following.wait() == 130
    assert ["first" in following.out[0], "second" in following.out[1]] == [True, True]
    assert "Traceback" not in "".join(following.err)


def test_json_is_one_object_a_line(tail, feed):
    following = tail("--json")
    feed.add("\x1b[2J")
    wait_for(lambda: following.out)
    assert "\x1b" not in following.out[0]
    assert json.loads(following.out[0]) == feed.entries[0]


def test_it_waits_for_a_collector_that_is_restarted(tail, stub, feed):
    following = tail()
    stub.stop()
    wait_for(lambda: any("Waiting for it" in told for told in following.err))
    stub.start()
    feed.add("again")
    wait_for(lambda: following.out)
    assert "again" in following.out[0]
    wait_for(lambda: any("there again" in told for told in following.err))
    assert sum("Waiting for it" in told for told in following.err) == 1


def test_without_a_collector_it_does_not_begin(run, stub):
    stub.stop()
    code, out, err = run("tail", "--url", stub.page)
    stub.start()
    assert (code, out) == (1, "")
    assert "`sluice dev`" in err


def test_a_closed_pipe_ends_it_quietly(stub, feed):
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "sluice", "tail", "--url", stub.page],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(extra=BUFFERED),
        cwd=ROOT,
        text=True,
    )
    os.close(writing)
    try:
        wait_for(lambda: len(stub.queries("events")) > 1, 30, "its questions")
        os.close(reading)
        feed.add("unread")
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert err == "sluice: Waiting for events; Ctrl-C ends this.\n"
