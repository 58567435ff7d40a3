"""What the test server hears and says: requests, answers, and both as bytes of HTTP/1.1."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

import msgspec

if TYPE_CHECKING:
    import socket

#: A body longer than this is not read at all: the connection is closed.
_READ_LIMIT: Final = 64 * 1024 * 1024
_LINE_LIMIT: Final = 64 * 1024
_ACCEPTING: Final = range(200, 300)
_CODES: Final = {
    400: "VALIDATION_ERROR",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    429: "RATE_LIMITED",
}

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says to one request, and how it fails to say it.

    `body` None is the contract's own: the counts for a 2xx, an error object otherwise.
    `delay` is the time before the answer and `drip` the time between its single bytes, in
    seconds.  `fault`: ``hang`` never answers, ``close`` and ``reset`` end the connection
    (FIN, RST) without an answer, ``truncate`` ends it in the middle of the body.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    drip: float = 0.0
    fault: Literal["hang", "close", "reset", "truncate"] | None = None

    @property
    def keeps(self) -> bool:
        """Whether the events of the request count as accepted."""
        return self.status in _ACCEPTING and self.fault != "hang"


@dataclass(slots=True)
class Received:
    """One request: as it came, and what became of it."""

    method: str
    #: As in the request line: with scheme and host where the server was used as a proxy.
    path: str
    #: Names in lower case.
    headers: dict[str, str]
    body: bytes
    #: `time.monotonic()` when the last byte of the body was there.
    at: float
    #: The number of the connection it came on, from 1.
    connection: int
    #: What it was answered, or is about to be.
    answer: Answer = field(default_factory=lambda: Answer(500))

    @property
    def status(self) -> int:
        """The status of the answer."""
        return self.answer.status

    @property
    def kept(self) -> bool:
        """Whether its events count as accepted."""
        return self.method == "POST" and self.answer.keeps

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of the body, decoded anew at each call.  Raises on a malformed body."""
        events: list[dict[str, Any]] = _decode(self.body)["events"]
        return events


Behaviour = Answer | Callable[[Received], Answer]


def error_body(status: int, message: str, details: object = None) -> bytes:
    """The contract's error object for a status."""
    code = _CODES.get(status, "INTERNAL_ERROR")
    error = {"code": code, "message": message, "docs_url": "https://docs.sluice.sh"}
    return msgspec.json.encode({"error": error | ({"details": details} if details else {})})


def reject_if(
    predicate: Callable[[dict[str, Any]], bool], otherwise: Answer | None = None
) -> Callable[[Received], Answer]:
    """A behaviour: 400 for a batch with an event that matches, `otherwise` for the rest."""
    fine = otherwise or Answer()

    def answer(received: Received) -> Answer:
        bad = [place for place, event in enumerate(received.events) if predicate(event)]
        if not bad:
            return fine
        return Answer(400, body=error_body(400, "Events were refused.", {"events": bad}))

    return answer


def refuse(status: int, message: str) -> Answer:
    """An answer with the contract's error object."""
    return Answer(status, body=error_body(status, message))


def read(stream: BinaryIO, connection: socket.socket, number: int) -> Received | None:
    """The next request; None where the client ended.  :class:`ValueError`: not HTTP."""
    request_line = stream.readline(_LINE_LIMIT)
    if not request_line:
        return None
    method, path, _ = request_line.decode("latin-1").split()
    headers: dict[str, str] = {}
    while (line := stream.readline(_LINE_LIMIT)) != b"\r\n":
        if not line:
            return None
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    if length > _READ_LIMIT or "transfer-encoding" in headers:
        raise ValueError("a body of unknown or enormous length")
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = stream.read(length)
    if len(body) < length:
        return None
    return Received(method, path, headers, body, time.monotonic(), number)


def written(answer: Answer) -> tuple[bytes, bytes]:
    """Head and body of the answer as bytes on the wire."""
    reason = http.client.responses.get(answer.status, "Unknown")
    body = answer.body
    if answer.status in (204, 304):
        body = b""
    elif body is None:
        body = b"{}" if answer.keeps else error_body(answer.status, reason)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in (headers | dict(answer.headers)).items()]
    head = "\r\n".join((f"HTTP/1.1 {answer.status} {reason}", *lines, "", ""))
    return head.encode("latin-1"), body
