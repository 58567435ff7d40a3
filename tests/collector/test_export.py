"""``GET /api/export``: the list as a file; what a spreadsheet would run, it shows."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tracemalloc
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.collector import export, listing
from sluice.collector.export import _cell, written
from sluice.collector.listing import Query
from tests.collector.wire import job
from tests.doubles import LAW, TEXT

AT = 1_760_000_000.0


def sheet(one, query: str = "") -> list[dict[str, str]]:
    answer = one.get(f"/api/export?format=csv&{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="tasks.csv"'
    return list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))


@pytest.fixture
def sample(one):
    """Some hundreds of tasks: three pages of the list."""
    for part in range(3):
        states = ["failed" if n % 3 else "queued" for n in range(150)]
        one.post_events(
            [job(f"{part}-{n:03}", state, AT + part * 150 + n) for n, state in enumerate(states)]
        )
    return one


def test_json_is_the_whole_list_in_its_order(sample):
    answer = sample.get("/api/export?format=json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"] == 'attachment; filename="tasks.json"'
    assert answer.json() == sample.get("/api/export").json()
    rows, cursor = [], ""
    while cursor is not None:
        page = sample.get(f"/api/jobs?limit=200&cursor={cursor}").json()
        rows, cursor = rows + page["jobs"], page["next"]
    assert answer.json() == rows
    assert len(rows) == 450


def test_csv_is_the_same_with_a_header(sample):
    rows, lines = sample.get("/api/export").json(), sheet(sample)
    assert list(lines[0]) == [
        *("id", "name", "state", "queue", "worker", "attempt", "maxRetries", "createdAt"),
        *("scheduledFor", "startedAt", "completedAt", "seenAt", "changedAt", "wait", "run"),
        *("exception", "error", "parentId", "rootId", "badges"),
    ]
    assert set(lines[0]) == set(rows[0])
    for row, line in zip(rows, lines, strict=True):
        assert line == {
            name: " ".join(value) if name == "badges" else "" if value is None else str(value)
            for name, value in row.items()
        }


@pytest.mark.parametrize(
    ("query", "number"),
    [
        *(("state=failed", 300), ("q=0-00", 10), ("sort=oldest&q=1-", 150), ("limit=1", 450)),
        ("state=completed", 0),
    ],
)
def test_it_is_filtered_as_the_list_is(sample, query, number):
    rows = sample.get(f"/api/export?{query}").json()
    assert len(rows) == number
    assert [line["id"] for line in sheet(sample, query)] == [row["id"] for row in rows]


@pytest.mark.parametrize("query", ["format=xml", "format=", "state=flying", "nothing=1", "sort=x"])
def test_what_cannot_be_exported_is_refused_before_it_begins(one, query):
    answer = one.get(f"/api/export?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == {"path": query.partition("=")[0]}


EVIL = [
    *(
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        '=HYPERLINK("http://x")',
        "=cmd|'/c'!A0",
    ),
    *("\uff1d1+1", "\uff0b1", "\uff0d1", "\uff20x"),
]


@pytest.mark.parametrize("text", EVIL)
def test_a_formula_is_shown_and_not_run(one, text):
    one.post_events([job(text, "failed", AT, name=text, queue=text, error=text, workerId=text)])
    (line,) = sheet(one)
    for field in ("id", "name", "queue", "error", "worker"):
        assert line[field] == f"'{text}"
    (row,) = one.get("/api/export").json()
    assert row["name"] == text, "and JSON has it as it is"


@pytest.mark.parametrize(
    "text", ['a,b"c', "a\nb", "a\r\nb", "'a", "é課題\U0001f600", " a ", ";", "1-1"]
)
def test_any_other_text_is_itself(one, text):
    one.post_events([job(text, "failed", AT, name=text, error=text)])
    (line,) = sheet(one)
    assert (line["id"], line["name"], line["error"]) == (text, text, text)


@LAW
@given(text=TEXT | st.text("=+-@\t\r\n '", max_size=5))
def test_no_cell_begins_as_a_formula_does(text):
    cell = _cell(text)
    assert cell in (text, f"'{text}")
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_numbers_are_numbers():
    assert [_cell(value) for value in (-1.5, 3, None, ["a", "b"])] == ["-1.5", "3", "", "a b"]


# --- size -----------------------------------------------------------------------------------------


def endless(number: int) -> SimpleNamespace:
    """A reader of so many tasks, of which there is one page at a time."""
    row = dict.fromkeys(export._FIELDS, "x" * 50) | {"badges": []}

    async def usual() -> dict[str, float]:
        return {}

    async def run(query):
        return {"jobs": [dict(row) for _ in range(listing.MOST)], "next": listing._cursor(1.0, "a")}

    return SimpleNamespace(usual=usual, run=run)


async def taken(kind: str) -> tuple[int, int]:
    """Bytes in all, and how many parts."""
    size = parts = 0
    async for part in written(endless(0), Query(), kind):
        size, parts = size + len(part), parts + 1
    return size, parts


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_it_ends_at_its_bound_and_memory_stays_flat(kind, monkeypatch):
    monkeypatch.setattr(export, "MOST", 2050)
    tracemalloc.start()
    try:
        size, parts = asyncio.run(taken(kind))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 2050 * 19 * 50
    assert parts >= 11
    assert peak < size / 2


def test_the_bound_is_exact(monkeypatch):
    monkeypatch.setattr(export, "MOST", 450)

    async def all_of_it() -> bytes:
        return b"".join([part async for part in written(endless(0), Query(), "json")])

    assert len(json.loads(asyncio.run(all_of_it()))) == 450
