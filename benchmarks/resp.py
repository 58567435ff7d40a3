"""Redis's protocol, as much of it as it takes to listen: commands out, replies in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

#: Stands for a reply of which there is only the beginning.
_MORE: Final = object()


class ReplyError(Exception):
    """What the server refused."""


def command(*words: str | int) -> bytes:
    """A command as the server wants it."""
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


def replies(data: bytes) -> tuple[list[Any], bytes]:
    """The complete replies in `data`, and the bytes of one that is not complete.

    Texts are bytes, errors are :class:`ReplyError` objects among the replies.
    """
    found = []
    at = 0
    while at < len(data):
        reply, end = _reply(data, at)
        if reply is _MORE:
            break
        found.append(reply)
        at = end
    return found, data[at:]


def _reply(data: bytes, at: int) -> tuple[Any, int]:
    """The reply that begins at `at`, and where it ends."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return _MORE, at
    kind, rest = data[at : at + 1], data[at + 1 : end]
    end += 2
    if kind == b"$":
        return _text(data, end, int(rest))
    if kind == b"*":
        return _list(data, end, int(rest))
    if kind not in _SHORT:
        raise ValueError(f"no reply begins with {kind!r}")
    return _SHORT[kind](rest), end


def _text(data: bytes, at: int, size: int) -> tuple[Any, int]:
    if size < 0:
        return None, at
    if len(data) < at + size + 2:
        return _MORE, at
    return data[at : at + size], at + size + 2


def _list(data: bytes, at: int, size: int) -> tuple[Any, int]:
    if size < 0:
        return None, at
    items = []
    for _ in range(size):
        item, at = _reply(data, at)
        if item is _MORE:
            return _MORE, at
        items.append(item)
    return items, at


_SHORT: Final[dict[bytes, Callable[[bytes], Any]]] = {
    b"+": bytes,
    b"-": lambda rest: ReplyError(rest.decode()),
    b":": int,
}
