"""``GET /api/live``: who looks on hears of a change at once, and of many in one word."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest
import requests

from sluice.collector import live, server
from sluice.collector.live import Ticks
from tests.collector.wire import job
from tests.harness import wait_for


class Listener:
    """A page that listens; `words` are the numbers heard, each with its time."""

    def __init__(self, one) -> None:
        self.answer = one.session.get(one.url + "/api/live", stream=True, timeout=20)
        self.words: list[tuple[float, int]] = []
        self.comments = 0
        #: It was not ended in order.
        self.broken = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for line in self.answer.iter_lines(chunk_size=1):
                if line.startswith(b"data: "):
                    self.words.append((time.monotonic(), json.loads(line[6:])["seq"]))
                elif line.startswith(b":"):
                    self.comments += 1
        except requests.RequestException:  # hung up on, by a server that ends and is held up
            self.broken = True

    @property
    def seq(self) -> int:
        return self.words[-1][1] if self.words else -1

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()


@pytest.fixture
def listen() -> Callable[..., Listener]:
    """Begin to listen to a collector; it ends when that does."""

    def begin(one) -> Listener:
        page = Listener(one)
        wait_for(lambda: page.words, what="the first word")
        return page

    return begin


def test_it_is_a_stream_of_events_that_nobody_keeps(one, listen):
    page = listen(one)
    headers = page.answer.headers
    assert headers["content-type"].partition(";")[0] == "text/event-stream"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"


def test_a_change_is_heard_within_a_second(one, listen):
    page = listen(one)
    best = float("inf")
    for number in range(3):
        heard = page.seq
        begin = time.monotonic()
        one.post_events([job(f"t{number}", "queued")])
        wait_for(lambda: page.seq > heard, 10.0, "the change")
        best = min(best, time.monotonic() - begin)
    assert best < 1.0, "but for a machine that is busy"
    assert one.get("/api/tick").json()["seq"] == page.seq, "which those hear who ask"


def test_a_clear_is_heard(one, listen):
    page = listen(one)
    heard = page.seq
    one.post("/api/clear")
    wait_for(lambda: page.seq > heard, 10.0)


def test_many_changes_are_few_words_and_the_last_is_told(one, listen):
    page = listen(one)
    begin = time.monotonic()
    for number in range(60):
        one.post_events([job(f"t{number}", "queued")])
    last = one.get("/api/tick").json()["seq"]
    wait_for(lambda: page.seq >= last, 10.0, "the last change")
    took = time.monotonic() - begin
    assert len(page.words) <= took / live.PACE + 3


def test_silence_is_kept_alive(one, listen, monkeypatch):
    monkeypatch.setattr(live, "QUIET", 0.1)
    page = listen(one)
    wait_for(lambda: page.comments >= 3, 5.0)
    assert len(page.words) <= 2, "and no number is made up"


def test_all_streams_end_at_once_with_the_server(collector, listen, monkeypatch):
    """By themselves: nobody is hung up on for a minute."""
    monkeypatch.setattr(server, "_GRACE", 60)
    monkeypatch.setattr(server, "_CANCELLED_AFTER", 60)
    one = collector()
    pages = [listen(one) for _ in range(10)]
    begin = time.monotonic()
    one.close()
    wait_for(lambda: all(page.ended for page in pages), 20.0, "the streams to end")
    assert time.monotonic() - begin < 15.0
    assert not any(page.broken for page in pages)


def test_fifty_pages_hear_of_a_change_and_others_are_answered(collector, listen):
    one = collector()
    pages = [listen(one) for _ in range(50)]
    heard = max(page.seq for page in pages)
    one.post_events([job("a", "queued")])
    wait_for(lambda: all(page.seq > heard for page in pages), 10.0)
    assert one.get("/api/jobs", timeout=10).status_code == 200


def test_a_page_that_leaves_is_forgotten(collector):
    one = collector()
    pages = [socket.create_connection(("127.0.0.1", one.port), 10) for _ in range(5)]
    for page in pages:
        page.sendall(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert page.recv(1000).startswith(b"HTTP/1.1 200 ")
    tasks = one.server.server_state.tasks
    assert len(tasks) == 5
    for page in pages:
        page.close()
    wait_for(lambda: not tasks, 5.0, lambda: f"{len(tasks)} streams to end")


def test_a_head_of_it_ends(one):
    """A stream has no end: who asks for its headers alone is not kept waiting for one."""
    before = len(one.server.server_state.tasks)
    answer = one.session.head(one.url + "/api/live", timeout=5)
    assert answer.status_code == 200
    assert one.get("/api/health", timeout=5).status_code == 200
    wait_for(lambda: len(one.server.server_state.tasks) <= before, 3.0)


# --- the ticks themselves -------------------------------------------------------------------------


def heard(ticks: Ticks, number: int, after: list[int]) -> list[int | None]:
    async def listen() -> list[int | None]:
        found: list[int | None] = []
        async for word in ticks.stream():
            found.append(word)
            for seq in after:
                ticks.poke(seq)
            if len(found) == number:
                break
        return found

    return asyncio.run(listen())


def test_only_what_grows_is_a_change(monkeypatch):
    monkeypatch.setattr(live, "PACE", 0.0)
    monkeypatch.setattr(live, "QUIET", 0.01)
    assert heard(Ticks(), 3, after=[5, 3]) == [0, 5, None]


def test_a_stream_that_begins_after_the_end_is_empty():
    async def listen() -> list[int | None]:
        ticks = Ticks()
        ticks.end()
        return [word async for word in ticks.stream()]

    assert asyncio.run(listen()) == []
