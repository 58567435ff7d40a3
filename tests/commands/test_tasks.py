"""`sluice tasks`: what it asks the collector, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from sluice.commands.tasks import lines
from sluice.commands.terminal import width
from sluice.demo.screen import Style
from tests.commands.stub import job
from tests.harness import environment
from tests.harness.processes import ROOT

#: As a shell starts it: what is still in the buffer is written when the interpreter ends.
BUFFERED = {"PYTHONUNBUFFERED": None}
EVIL = "\x1b[2J\x1b]0;owned\x07\u202e<img onerror>\r\nroot#"


def test_a_table_has_a_line_for_each_task(run, stub):
    failed = job("orders.refund", id="two", state="failed", error="ValueError: no\nmore", attempt=2)
    stub.answers["jobs"] = {"jobs": [job(), failed], "next": None}
    code, out, err = run("tasks", "--url", stub.page)
    heading, first, second = out.splitlines()
    assert (code, err) == (0, "")
    assert heading.split() == "SEEN STATE NAME ID TRY QUEUE WORKER WAIT RUN ERROR".split()
    assert "orders.charge" in first
    assert "120 ms" in first
    assert second.endswith("ValueError: no")
    assert second.split()[5] == "2"


def test_the_filters_are_the_collectors(run, stub):
    stub.answers["jobs"] = {"jobs": [], "next": None}
    code, out, err = run(
        *("tasks", "--url", stub.api, "--state", "failed", "--state", "lost", "--name", "a.b"),
        *("--queue", "q", "--worker", "w@h", "--q", "x y&z", "--sort", "slowest"),
        *("--since", "2026-01-02T03:04:05Z", "--limit", "7"),
    )
    (query,) = stub.queries("jobs")
    assert query == {
        "state": ["failed", "lost"],
        "name": ["a.b"],
        "queue": ["q"],
        "worker": ["w@h"],
        "q": ["x y&z"],
        "sort": ["slowest"],
        "since": ["2026-01-02T03:04:05Z"],
        "limit": ["8"],
    }
    assert (code, out, err) == (0, "", "sluice: No task matches.\n")


def test_json_is_one_document_of_the_jobs_as_they_are(run, stub):
    jobs = [job(EVIL, extra={"kept": True}), job()]
    stub.answers["jobs"] = {"jobs": jobs, "next": None}
    code, out, err = run("tasks", "--url", stub.page, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == jobs
    assert out.isascii()
    assert "\x1b" not in out


def test_without_a_task_json_is_an_empty_list(run, stub):
    stub.answers["jobs"] = {"jobs": [], "next": None}
    assert run("tasks", "--url", stub.page, "--json") == (0, "[]\n", "")


def test_more_than_a_page_is_asked_for_page_by_page(run, stub):
    def jobs(asked):
        begin, limit = int(asked.query.get("cursor", ["0"])[0]), int(asked.query["limit"][0])
        end = min(begin + limit, 1000)
        return {"jobs": [job(id=str(i)) for i in range(begin, end)], "next": str(end)}

    stub.answers["jobs"] = jobs
    code, out, err = run("tasks", "--url", stub.page, "--json", "--limit", "450")
    assert (code, err) == (0, "sluice: There are more than these 450: --limit N.\n")
    assert [found["id"] for found in json.loads(out)] == [str(i) for i in range(450)]
    assert [query["limit"] for query in stub.queries("jobs")] == [["200"]] * 3


def test_it_says_that_there_are_more(run, stub):
    stub.answers["jobs"] = {"jobs": [job(), job(), job()], "next": None}
    code, out, err = run("tasks", "--url", stub.page, "--limit", "2")
    assert len(out.splitlines()) == 3
    assert err == "sluice: There are more than these 2: --limit N.\n"
    assert code == 0


@pytest.mark.parametrize("columns", [10, 30, 60, 80, 120, 400])
def test_no_line_is_wider_than_the_terminal_and_nothing_in_a_name_is_obeyed(columns):
    jobs = [job(EVIL, state="failed", error=EVIL), job("注文" * 30), job()]
    shown = list(lines(jobs, columns, Style(colour=False)))
    assert len(shown) == 4
    for one in shown:
        assert width(one) <= columns
        assert one.isprintable()


def test_a_narrow_terminal_keeps_state_name_and_the_beginning_of_the_id():
    heading, first = lines([job()], 45, Style(colour=False))
    assert heading.split() == ["STATE", "NAME", "ID"]
    assert first.split() == ["completed", "orders.charge", "0b1c2d3e-0000-4000…"]


def test_the_state_has_a_colour():
    _, first = lines([job(state="failed")], 100, Style(colour=True))
    assert "\x1b[31mfailed" in first


def test_the_url_of_the_page_is_enough_with_its_token(run, stub):
    stub.answers["jobs"] = {"jobs": [], "next": None}
    assert run("tasks", "--url", f"{stub.page}/?token=T-1&x=1#tasks")[0] == 0
    assert stub.asked[-1].headers["Authorization"] == "Bearer T-1"
    assert "token" not in stub.asked[-1].query


def test_the_token_comes_from_its_option_then_from_its_variable(run, stub, monkeypatch):
    stub.answers["jobs"] = {"jobs": [], "next": None}
    run("tasks", "--url", stub.page)
    assert "Authorization" not in stub.asked[-1].headers
    monkeypatch.setenv("SLUICE_COLLECTOR_TOKEN", "from-variable")
    run("tasks", "--url", stub.page)
    assert stub.asked[-1].headers["Authorization"] == "Bearer from-variable"
    run("tasks", "--url", stub.page, "--token", "from-option")
    assert stub.asked[-1].headers["Authorization"] == "Bearer from-option"


def test_a_key_is_never_sent_to_a_collector(run, stub, monkeypatch):
    monkeypatch.setenv("SLUICE_API_KEY", "sk_live_secret")
    stub.answers["jobs"] = {"jobs": [], "next": None}
    run("tasks", "--url", stub.page)
    assert "sk_live_secret" not in repr(stub.asked)


def test_sluice_dev_says_where_the_collector_is(run, stub, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", stub.page)
    stub.answers["jobs"] = {"jobs": [], "next": None}
    assert run("tasks")[0] == 0
    assert stub.queries("jobs")


def test_no_proxy_is_asked_for_this_machine(run, stub, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    stub.answers["jobs"] = {"jobs": [], "next": None}
    assert run("tasks", "--url", stub.page)[0] == 0


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_collector_that_is_not_there_is_one_line_with_what_to_do(run, stub):
    stub.stop()
    code, out, err = run("tasks", "--url", stub.page)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert stub.page in err
    assert "Connection refused" in err
    assert "`sluice dev`" in err
    stub.start()


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ((401, {"error": {"code": "UNAUTHORIZED", "message": "x"}}), "SLUICE_COLLECTOR_TOKEN"),
        ((400, {"error": {"code": "V", "message": "cursor \x1b[2J"}}), r"400 (cursor \x1b[2J)"),
        ((404, b"<html>"), "404"),
        ((302, b""), "302"),
        ((500, {"error": "?"}), "500"),
        ((200, b"<html>"), "no collector of Sluice's"),
        ((200, [1]), "no collector of Sluice's"),
        ((200, {"else": 1}), "no collector of Sluice's"),
    ],
)
def test_what_is_no_answer_is_one_line(run, stub, reply, told):
    stub.answers["jobs"] = reply
    code, out, err = run("tasks", "--url", stub.page)
    assert (code, out) == (1, "")
    assert err.startswith("sluice: ")
    assert err.count("\n") == 1
    assert told in err
    assert "\x1b" not in err


@pytest.mark.parametrize("url", ["127.0.0.1:5580", "ftp://h", "http://", "http://u:secret@h"])
def test_what_is_no_url_is_refused(run, url):
    code, out, err = run("tasks", "--url", url)
    assert (code, out) == (2, "")
    assert "--url" in err
    assert "secret" not in err


@pytest.mark.parametrize("token", ["two words", "new\nline", "ümlaut"])
def test_what_is_no_token_is_refused_and_not_repeated(run, stub, token):
    code, _, err = run("tasks", "--url", stub.page, "--token", token)
    assert code == 2
    assert token not in err


def test_a_state_that_does_not_exist_is_refused(run):
    code, _, err = run("tasks", "--state", "done")
    assert code == 2
    assert "completed" in err


def test_a_reader_that_has_seen_enough_is_no_error(stub):
    stub.answers["jobs"] = {"jobs": [job() for _ in range(200)], "next": "more"}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "sluice", "tasks", "--url", stub.page, "--limit", "1000"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(extra=BUFFERED),
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_without_unicode_gets_escapes(stub):
    stub.answers["jobs"] = {"jobs": [job("größe.注文")], "next": None}
    done = subprocess.run(
        [sys.executable, "-m", "sluice", "tasks", "--url", stub.page],
        capture_output=True,
        env=environment(extra={"PYTHONIOENCODING": "ascii"}),
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"gr\xf6\xdfe.\u6ce8\u6587" in done.stdout
