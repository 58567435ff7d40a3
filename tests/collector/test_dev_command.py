"""``sluice dev`` as a process: what it says, how it ends, what it leaves."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.collector.wire import body, job
from tests.harness import Process, environment, wait_for

#: Where in-memory collectors have their folders.
MEMORY = Path("/dev/shm")


#: A request of which the rest never comes.
SLOW = (
    b"POST /api/ingest HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk_x\r\n"
    b"Content-Length: 100\r\n\r\n{"
)


#: A shell's job in the background ignores SIGINT, and whatever that starts does as well.
WITH_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Dev(Process):
    """A running ``sluice dev``."""

    def __init__(self, *options: str, port: int = 0) -> None:
        dev = ["-m", "sluice", "dev", "--port", str(port), *options]
        command = [sys.executable, "-c", WITH_SIGINT, sys.executable, *dev]
        super().__init__(command, env=environment(), name="sluice dev")

    def begin(self) -> Dev:
        """Wait until it says that it listens."""
        self.wait_line("Stop it with Ctrl-C.")
        return self

    @property
    def page(self) -> str:
        (line,) = self.matching("The page:")
        return line.split()[-1]

    @property
    def url(self) -> str:
        return self.page.partition("/?")[0].rstrip("/")

    def send(self, *tasks: str, key: str = "sk_x") -> dict[str, Any]:
        content = body(*(job(task, "queued") for task in tasks))
        headers = {"Authorization": f"Bearer {key}"}
        answer = requests.post(f"{self.url}/api/ingest", content, headers=headers, timeout=10)
        return answer.json()

    def tasks(self) -> list[str]:
        answer = requests.get(f"{self.url}/api/jobs?sort=oldest", timeout=10).json()
        return [row["id"] for row in answer["jobs"]]

    def wait(self, timeout: float = 20.0) -> int:
        """The exit code, once `lines` is complete too."""
        code = super().wait(timeout)
        self._drain.join(5)
        return code

    def ended_by(self, number: signal.Signals) -> tuple[int, float]:
        """The exit code, and after how many seconds."""
        begin = time.monotonic()
        self.send_signal(number)
        return self.wait(20), time.monotonic() - begin


@pytest.fixture
def dev(start_process, monkeypatch) -> Callable[..., Dev]:
    """Start ``sluice dev`` on a free port; killed after the test."""
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)

    def start(*options: str, **more: Any) -> Dev:
        started.append(Dev(*options, **more))
        return started[-1]

    started: list[Dev] = []
    yield start
    for one in started:
        one.kill()


def folders() -> set[Path]:
    return set(MEMORY.glob("sluice-dev-*"))


def folder_of(one: Dev) -> set[Path]:
    """What this process has there."""
    found: set[Path] = set()
    for link in Path(f"/proc/{one.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed in between
            found.add(link.readlink().parent)
    return {folder for folder in found if folder.name.startswith("sluice-dev-")}


def test_it_says_where_it_is_and_takes_tasks(dev):
    one = dev().begin()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", one.page)
    assert one.matching("Send to it:")[0].split()[-1] == f"SLUICE_DEV={one.url}"
    assert one.matching("in memory")
    assert one.send("a") == {"accepted": 1, "duplicates": 0}
    assert one.tasks() == ["a"]
    assert "<script" in requests.get(one.page, timeout=10).text
    assert len(one.lines) == 5, "and nothing else"


@pytest.mark.alone
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order(dev, number, code):
    """130 for Ctrl-C, as the other commands have it, and a supervisor's TERM is no fault."""
    one = dev().begin()
    one.send("a")
    mine = folder_of(one)
    assert mine <= folders()
    assert mine
    found, took = one.ended_by(number)
    assert (found, took < 3) == (code, True)
    assert not mine & folders(), "nothing is left in /dev/shm"
    assert len(one.lines) == 5, one.output()


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pages_and_slow_clients_do_not_keep_it(dev, number):
    one = dev().begin()
    for part in range(10):
        one.send(*(f"{part}-{n:0500}" for n in range(1000)))
    mine = folder_of(one)
    port = int(one.url.rpartition(":")[2])
    said = [
        *(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n",) * 3,
        b"",
        b"GET / HTTP/1.1\r\nHost: loc",
        b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        SLOW,
        b"GET /api/export HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    clients = [socket.create_connection(("127.0.0.1", port), 10) for _ in said]
    try:
        for client, text in zip(clients, said, strict=True):
            client.sendall(text)
        for client in (*clients[:3], clients[-1]):
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        code, took = one.ended_by(number)
    finally:
        for client in clients:
            client.close()
    assert code == (0 if number == signal.SIGTERM else 130)
    assert took < 3
    assert not mine & folders()
    assert "Traceback" not in one.output(last=200), one.output(last=200)


def test_two_signals_leave_nothing_either(dev):
    one = dev().begin()
    mine = folder_of(one)
    one.send_signal(signal.SIGINT)
    one.send_signal(signal.SIGINT)
    assert one.wait(10) == 130
    assert not mine & folders()
    assert "Traceback" not in one.output(last=200), one.output(last=200)


def test_what_a_killed_one_left_is_removed_by_the_next(dev):
    one = dev().begin()
    mine = folder_of(one)
    assert mine <= folders()
    one.send_signal(signal.SIGKILL)  # which removes nothing, but the next one of any test may
    one.wait(10)
    other = dev().begin()
    assert not mine & folders()
    assert folder_of(other) <= folders()


def test_a_port_that_is_taken_is_one_clear_line(dev):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = dev(port=port)
        assert one.wait(20) == 1
    reason = "Address already in use"
    (line,) = one.lines
    assert line == (
        f"Nothing can listen on 127.0.0.1 port {port}: {reason}. Choose another with --port."
    )


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "Cannot assign requested address"), ("no such host.invalid", None)],
)
def test_an_address_that_is_not_this_machines_is_one_clear_line(dev, host, reason):
    one = dev("--host", host)
    assert one.wait(20) == (1 if reason else 2)
    assert len(one.lines) == 1
    assert host in one.lines[0]
    assert (reason or "--host") in one.lines[0]


def test_a_file_keeps_everything_over_a_restart(dev, tmp_path):
    file = tmp_path / "a b.sqlite"
    one = dev("--db", str(file)).begin()
    assert one.matching(str(file))
    one.send("a", "b")
    seq = wait_for(lambda: requests.get(f"{one.url}/api/tick", timeout=10).json()["seq"])
    assert one.ended_by(signal.SIGTERM)[0] == 0
    again = dev("--db", str(file)).begin()
    assert again.tasks() == ["a", "b"]
    again.send("c")
    assert again.tasks() == ["a", "b", "c"]
    wait_for(lambda: requests.get(f"{again.url}/api/tick", timeout=10).json()["seq"] > seq)
    again.send_signal(signal.SIGKILL)
    again.wait(10)
    third = dev("--db", str(file)).begin()
    assert third.tasks() == ["a", "b", "c"], "and over a death"


def test_what_was_refused_is_counted_over_a_restart_too(dev, tmp_path):
    file = tmp_path / "db.sqlite"
    one = dev("--db", str(file)).begin()
    one.send("a", key="wrong")
    assert one.ended_by(signal.SIGTERM)[0] == 0
    again = dev("--db", str(file)).begin()
    heard = requests.get(f"{again.url}/api/now", timeout=10).json()["heard"]
    assert heard["refusedKeys"] == 1


def test_a_file_that_is_no_database_is_one_clear_line(dev, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but long enough to be looked at as one " * 50)
    one = dev("--db", str(file))
    assert one.wait(20) == 2
    assert len(one.lines) == 1
    assert str(file) in one.lines[0]
    assert file.read_text().startswith("not a database")


def test_bound_wider_it_prints_a_token_and_a_key(dev):
    one = dev("--host", "0.0.0.0").begin()
    port = one.url.rpartition(":")[2]
    url = f"http://127.0.0.1:{port}"
    token = one.page.partition("?token=")[2]
    assert len(token) >= 32
    (line,) = one.matching("Send to it:")
    key = line.partition("SLUICE_API_KEY=")[2].split()[0]
    assert requests.get(f"{url}/api/jobs", timeout=10).status_code == 401
    with requests.Session() as browser:
        assert browser.get(f"{url}/?token={token}", timeout=10).status_code == 200
        assert browser.get(f"{url}/api/jobs", timeout=10).status_code == 200
    headers = {"Authorization": f"Bearer {key}"}
    answer = requests.post(
        f"{url}/api/ingest", body(job("a", "queued")), headers=headers, timeout=10
    )
    assert answer.json()["accepted"] == 1
