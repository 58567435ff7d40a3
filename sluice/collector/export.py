"""``GET /api/export``: a list of tasks as a file, page by page, so that memory stays flat."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec

from sluice.collector import listing
from sluice.collector.listing import Query
from sluice.collector.reader import Reader

MOST: Final = 200_000
FORMATS: Final = {"json": "application/json", "csv": "text/csv; charset=utf-8"}
_FIELDS: Final = (
    *("id", "name", "state", "queue", "worker", "attempt", "maxRetries", "createdAt"),
    *("scheduledFor", "startedAt", "completedAt", "seenAt", "changedAt", "wait", "run"),
    *("exception", "error", "parentId", "rootId", "badges"),
)
#: A spreadsheet takes a text that begins so for a formula (OWASP, "CSV Injection"); in some
#: languages the wide forms of these too.
_FORMULAS: Final = (
    *("=", "+", "-", "@", "\t", "\r", "\n"),
    *("\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}"),
    *("\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}"),
)


async def written(reader: Reader, query: Query, kind: str) -> AsyncIterator[bytes]:
    """The file in parts."""
    first = True
    if kind == "csv":
        yield _line(_FIELDS)
    else:
        yield b"["
    async for some in _pages(reader, query):
        if kind == "csv":
            yield b"".join(_line(_cells(job)) for job in some)
        else:
            body = b",\n".join(msgspec.json.encode(job) for job in some)
            yield body if first or not body else b",\n" + body
        first = first and not some
    if kind == "json":
        yield b"]\n"


async def _pages(reader: Reader, query: Query) -> AsyncIterator[list[dict[str, Any]]]:
    usual = await reader.usual()
    left, following = MOST, replace(query, limit=listing.MOST)
    while left > 0:
        found = await reader.run(partial(listing.jobs, query=following, usual=usual))
        yield found["jobs"][:left]
        left -= len(found["jobs"])
        if found["next"] is None:
            return
        following = replace(following, after=listing.read_cursor(found["next"]))


def _cells(job: dict[str, Any]) -> list[str]:
    return [_cell(job[field]) for field in _FIELDS]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(value)
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULAS) else text


def _line(cells: Any) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerow(cells)
    return file.getvalue().encode()
