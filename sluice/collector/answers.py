"""Answers as the contract has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.responses import Response

DOCS: Final = "https://docs.sluice.sh"

_encode = msgspec.json.Encoder().encode


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON; it may hold :class:`msgspec.Raw`."""
    return Response(_encode(value), status, headers, "application/json")


def refusal(
    status: int,
    code: str,
    message: str,
    details: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The contract's error object."""
    error = {"code": code, "message": message, "docs_url": DOCS}
    if details is not None:
        error["details"] = details
    return answer({"error": error}, status, headers)


def unavailable() -> Response:
    """The database does not do what it is asked: they may come again."""
    return refusal(
        503, "UNAVAILABLE", "The database does not answer.", headers={"Retry-After": "2"}
    )
