"""As much of protobuf's wire format as it takes to look into OTLP: fields by their numbers.

Written by hand, so that the receiver needs nothing of OpenTelemetry in its environment.
"""

from __future__ import annotations

from typing import Any

#: The values of a message by the number of their field, in order: bytes, or an int.
Fields = dict[int, list[Any]]

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def fields(message: bytes) -> Fields:
    """One level of `message`.  Raises :class:`ValueError` for what is no such message."""
    found: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        value: Any
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind in {_BYTES, _EIGHT_BYTES, _FOUR_BYTES}:
            size = 8 if kind == _EIGHT_BYTES else 4
            if kind == _BYTES:
                size, at = _varint(message, at)
            value = message[at : at + size]
            if len(value) < size:
                raise ValueError("a protobuf message ends within a field")
            at += size
        else:
            raise ValueError(f"protobuf's wire type {kind} is not known")
        found.setdefault(tag >> 3, []).append(value)
    return found


def text(values: list[Any] | None) -> str:
    """The last of a field's values as text; empty where there is none."""
    return values[-1].decode() if values else ""


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends."""
    value = shift = 0
    while True:
        if at >= len(message):
            raise ValueError("a protobuf message ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
