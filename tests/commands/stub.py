"""A collector's read API made of answers that a test gives, on a port that it keeps."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.harness.ports import free_port

#: A status and what it says: JSON, or bytes as they are.
Reply = tuple[int, Any]


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


class Stub:
    """Answers each path below ``/api/`` with what `answers` has for it, a value or a function.

    ``name/*`` is whatever is below a name.  `stop()` and `start()` are a restart: the port stays
    the same.
    """

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.answers: dict[str, Any] = {"health": {"status": "ok"}, **(answers or {})}
        self.asked: list[Asked] = []
        self.port = free_port()
        self.start()

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        return f"{self.page}/api"

    def start(self) -> None:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                split = urlsplit(self.path)
                asked = Asked(
                    self.command,
                    split.path.removeprefix("/api/"),
                    parse_qs(split.query, keep_blank_values=True),
                    dict(self.headers),
                    self.rfile.read(length),
                )
                stub.asked.append(asked)
                status, said = stub.reply(asked)
                body = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  the name is the library's

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def reply(self, asked: Asked) -> Reply:
        found = self.answers.get(asked.path, self.answers.get(f"{asked.path.split('/')[0]}/*"))
        if callable(found):
            found = found(asked)
        if found is None:
            return 404, {"error": {"code": "NOT_FOUND", "message": "There is nothing here."}}
        return found if isinstance(found, tuple) else (200, found)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def queries(self, path: str) -> list[dict[str, list[str]]]:
        """What was asked of a path so far."""
        return [asked.query for asked in self.asked if asked.path == path]


class Feed:
    """``/api/events`` over a list that a test appends to."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def add(self, name: str, *, seq: int | None = None, at: str = "one", **job: Any) -> None:
        self.entries.append(
            {
                "seq": len(self.entries) + 1 if seq is None else seq,
                "receivedAt": at,
                "event": event(name, **job),
            }
        )

    def __call__(self, asked: Asked) -> dict[str, Any]:
        after = int(asked.query["after"][0])
        last = max((entry["seq"] for entry in self.entries), default=0)
        if after < 0:
            return {"events": [], "last": last}
        found = [entry for entry in self.entries if entry["seq"] > after]
        return {"events": found[: int(asked.query["limit"][0])], "last": last}


def event(name: str, **job: Any) -> dict[str, Any]:
    """An event of a task as it is sent."""
    return {
        "type": "job_state_change",
        "timestamp": "2026-01-02T03:04:05.678Z",
        "framework": "celery",
        "connectionId": "00000000-0000-4000-8000-000000000000",
        "job": {"externalId": f"id-of-{name}", "name": name, "state": "queued", **job},
    }


def job(name: str = "orders.charge", **more: Any) -> dict[str, Any]:
    """A job of ``/api/jobs``."""
    return {
        "id": "0b1c2d3e-0000-4000-8000-000000000001",
        "name": name,
        "state": "completed",
        "queue": "celery",
        "worker": "celery@host",
        "attempt": 1,
        "seenAt": "2026-01-02T03:04:05Z",
        "wait": 0.004,
        "run": 0.12,
        "error": None,
        **more,
    }
