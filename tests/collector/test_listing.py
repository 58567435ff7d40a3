"""``GET /api/jobs``: filters, orders, pages, badges; and the cursor, which a stranger may write."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.collector import listing
from sluice.collector.listing import BadQuery, Query, iso, read_cursor, whole
from sluice.collector.story import STATES
from tests.collector.wire import Wire, job, stamp, worker
from tests.doubles import LAW, TEXT

AT = 1_760_000_000.0


def listed(one, **query: Any) -> list[str]:
    """The ids of one page."""
    answer = one.get("/api/jobs?" + urlencode(query, doseq=True))
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["jobs"]]


def pages(one, limit: int, **query: Any) -> list[list[str]]:
    """The ids of all pages, each asked for by the cursor of the one before."""
    found: list[list[str]] = []
    cursor = None
    while cursor is not None or not found:
        more = {"cursor": cursor} if cursor else {}
        answer = one.get("/api/jobs?" + urlencode(query | more | {"limit": limit}, doseq=True))
        assert answer.status_code == 200, answer.text
        found.append([row["id"] for row in answer.json()["jobs"]])
        cursor = answer.json()["next"]
    return found


def ended(task: str, at: float, wait: float, run: float, **fields: Any) -> list[Wire]:
    """A task that waited and ran so many seconds."""
    return [
        job(task, "queued", at, **fields),
        job(task, "active", at + wait, startedAt=at + wait, **fields),
        job(
            *(task, fields.pop("state", "completed"), at + wait + run),
            **{"startedAt": at + wait, "completedAt": at + wait + run} | fields,
        ),
    ]


# --- rows -----------------------------------------------------------------------------------------


def test_a_row_has_all_that_was_said(one):
    fields = {"queue": "high", "workerId": "w@h", "maxRetries": 3, "parentId": "p", "rootId": "r"}
    one.post_events(
        [
            job("a", "queued", AT, createdAt=AT - 1, **fields),
            job("a", "active", AT + 2, startedAt=AT + 2, **fields),
            job(
                *("a", "failed", AT + 5),
                **{"startedAt": AT + 2, "completedAt": AT + 5, "error": "x" * 400} | fields,
                extensions={"exceptionClass": "ValueError"},
            ),
        ]
    )
    (row,) = one.get("/api/jobs").json()["jobs"]
    changed = row.pop("changedAt")
    assert abs(time.time() - listing._time("", changed)) < 60
    assert row == {
        "id": "a",
        "name": "orders.charge",
        "state": "failed",
        "queue": "high",
        "worker": "w@h",
        "attempt": 1,
        "maxRetries": 3,
        "parentId": "p",
        "rootId": "r",
        "createdAt": "2025-10-09T08:53:19.000Z",
        "seenAt": "2025-10-09T08:53:19.000Z",
        "startedAt": "2025-10-09T08:53:22.000Z",
        "completedAt": "2025-10-09T08:53:25.000Z",
        "scheduledFor": None,
        "wait": 2.0,
        "run": 3.0,
        "error": "x" * 300,
        "exception": "ValueError",
        "badges": [],
    }


# --- filters --------------------------------------------------------------------------------------


@pytest.fixture
def sample(one):
    """Six tasks of which no two are alike."""
    one.post_events(
        [
            job("a", "queued", AT, name="orders.charge", queue="high", workerId="w1@h"),
            job("b", "active", AT + 1, name="orders.refund", queue="low", workerId="w2@h"),
            *ended("c", AT + 2, 1, 5, name="mails.send", queue="low", workerId="w1@h"),
            job(
                *("d", "failed", AT + 3),
                name="mails.send",
                queue="high",
                completedAt=AT + 4,
                extensions={"exceptionClass": "ValueError"},
            ),
            job(
                *("e", "failed", AT + 4),
                name="orders.charge",
                queue="low",
                completedAt=AT + 5,
                extensions={"exceptionClass": "KeyError"},
            ),
            job("f", "cancelled", AT + 5, name="mails.send_all"),
        ]
    )
    return one


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "fedcba"),
        ({"state": "failed"}, "ed"),
        ({"state": ["failed", "active"]}, "edb"),
        ({"state": ["failed", "failed", ""]}, "ed"),
        ({"state": "lost"}, ""),
        ({"state": list(STATES)}, "fedcba"),
        ({"name": "mails.send"}, "dc"),
        ({"name": "MAILS.SEND"}, ""),
        ({"queue": "low"}, "ecb"),
        ({"worker": "w1@h"}, "ca"),
        ({"exception": "ValueError"}, "d"),
        ({"q": "send"}, "fdc"),
        ({"q": "SEND"}, "fdc"),
        ({"q": "nothing"}, ""),
        ({"q": ""}, "fedcba"),
        ({"since": stamp(AT + 3)}, "fed"),
        ({"until": stamp(AT + 3)}, "cba"),
        ({"since": stamp(AT + 1), "until": stamp(AT + 3)}, "cb"),
        ({"since": "2025-10-09T10:53:23+02:00"}, "fed"),
        ({"since": "2025-10-09T08:53:23"}, "fed"),
        ({"since": "2025-10-09"}, "fedcba"),
        ({"since": "0001-01-01T00:00:00+23:59"}, "fedcba"),
        ({"until": "9999-12-31T23:59:59-23:59"}, "fedcba"),
        ({"state": "failed", "queue": "low"}, "e"),
        ({"state": ["failed", "completed"], "name": "mails.send", "queue": "low"}, "c"),
        ({"q": "mails", "state": "failed", "exception": "ValueError", "queue": "high"}, "d"),
        ({"q": "mails", "worker": "w1@h", "since": stamp(AT), "until": stamp(AT + 9)}, "c"),
        ({"sort": "oldest"}, "abcdef"),
        ({"sort": "oldest", "state": "failed"}, "de"),
        ({"limit": 2}, "fe"),
        ({"limit": ""}, "fedcba"),
    ],
    ids=lambda value: urlencode(value, doseq=True) if isinstance(value, dict) else value,
)
def test_filters(sample, query, found):
    assert listed(sample, **query) == list(found)


STRANGE = [
    *("100%", "snake_case", "back\\slash", "a/b", "quote'", 'quote"', "[a-z]*?", "^caret]", "--"),
    *("Задача", "ΣΊΣΥΦΟΣ", "Größe", "課題", "İstanbul", "\U0001f600", "é", "%_%", "\\%", "a  b"),
]


@pytest.mark.parametrize("text", STRANGE)
def test_a_substring_means_itself(one, text):
    """No character of it is a pattern, and case does not count in any alphabet."""
    one.post_events(
        [
            job("name", "queued", AT + 2, name=f"x{text}y"),
            job(f"id-{text}-id", "queued", AT + 1),
            job("other", "queued", AT, name="100 percent snakeXcase back/slash abcz"),
        ]
    )
    assert listed(one, q=text) == ["name", f"id-{text}-id"]
    assert listed(one, q=f"x{text}") == ["name"]
    if len(text.swapcase()) == len(text):
        assert listed(one, q=text.swapcase()) == ["name", f"id-{text}-id"]


@pytest.mark.parametrize(
    "query",
    [
        *("state=flying", "state=failed&state=flying", "sort=name", "limit=0", "limit=201"),
        *("limit=-1", "limit=--5", "limit=1.5", "limit=x", "limit=٣", "limit=99999999999999999999"),
        *("since=yesterday", "until=1760000000.5", "since=2025-13-01", "since=2025-10-09T25:00"),
        *("cursor=x", "q=a&q=b", "unknown=1", "state%00=a", "q=%00", "format=csv", "limit=+5"),
        "q=" + "x" * 1025,
        *(f"{one}=a&{one}=a" for one in ("name", "queue", "worker", "exception", "since")),
    ],
    ids=lambda query: query[:30],
)
def test_a_parameter_that_cannot_be_used_is_named(one, query):
    answer = one.get(f"/api/jobs?{query}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "VALIDATION_ERROR")
    name = query.partition("=")[0]
    assert error["details"]["path"] == ("state\0" if "%00=" in query else name)


@LAW
@given(
    values=st.dictionaries(
        TEXT | st.sampled_from(["q", "since", "limit", "cursor"]), st.lists(TEXT)
    )
)
def test_whatever_is_asked_is_a_query_or_a_bad_one(values):
    with contextlib.suppress(BadQuery):
        assert 1 <= Query.of(values).limit <= listing.MOST


# --- orders ---------------------------------------------------------------------------------------


def test_sorts_by_time_run_and_wait(one):
    one.post_events(
        [
            *ended("a", AT, wait=1, run=30),
            *ended("b", AT + 1, wait=3, run=10),
            *ended("c", AT + 2, wait=2, run=20),
            job("none", "queued", AT + 3),
        ]
    )
    assert listed(one) == listed(one, sort="newest") == ["none", "c", "b", "a"]
    assert listed(one, sort="oldest") == ["a", "b", "c", "none"]
    assert listed(one, sort="slowest") == ["a", "c", "b", "none"]
    assert listed(one, sort="waited") == ["b", "c", "a", "none"]


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", ["newest", "oldest", "slowest", "waited"])
def test_pages_hold_every_row_once(one, sort):
    """Also where many are equal in what they are sorted by."""
    events = [job(f"{n:03}", "queued", AT + n // 10) for n in range(60)]
    for n in range(60, 97):
        events += ended(f"{n:03}", AT + n // 10, n % 3, n % 5)
    one.post_events(events)
    found = pages(one, 10, sort=sort)
    assert [len(page) for page in found] == [*[10] * 9, 7]
    flat = [task for page in found for task in page]
    assert sorted(flat) == [f"{n:03}" for n in range(97)]
    assert flat == listed(one, sort=sort, limit=200)


def test_a_page_that_is_just_full_is_the_last(one):
    one.post_events([job(str(n), "queued", AT + n) for n in range(20)])
    assert [len(page) for page in pages(one, 10)] == [10, 10]


@pytest.mark.parametrize("sort", ["newest", "oldest"])
def test_no_row_is_missing_or_twice_while_others_arrive(one, sort):
    one.post_events([job(f"{n:03}", "queued", AT + n) for n in range(50)])
    found: list[str] = []
    cursor, turn = "", 0
    while cursor is not None:
        more = {"cursor": cursor} if cursor else {}
        answer = one.get("/api/jobs?" + urlencode({"limit": 7, "sort": sort} | more)).json()
        found += [row["id"] for row in answer["jobs"] if not row["id"].startswith("new")]
        cursor, turn = answer["next"], turn + 1
        at = AT + 1000 if sort == "newest" else AT - 1000
        one.post_events([job(f"new-{turn}-{n}", "queued", at + turn) for n in range(5)])
    assert sorted(found) == [f"{n:03}" for n in range(50)]
    assert len(found) == 50


@pytest.mark.parametrize("character", ["\U0001f600", "\x01", '"', "\\", "é", "\x7f", "\u2028"])
def test_pages_of_the_longest_ids(one, character):
    tasks = [character * 511 + last for last in "abc"]
    one.post_events([job(task, "queued", AT) for task in tasks])
    assert sorted(task for page in pages(one, 1) for task in page) == sorted(tasks)


def forged(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        *("!", "=", "e30", "é", "AAAA", "x" * 4097, "W10", "\U0001f600", "a b", "0"),
        *(forged(one) for one in ([], [1], ["a", "b"], [1.0, 2], [1.0, "a", 3], None, {"a": 1})),
        *(forged(one) for one in ([1.0, "a\0b"], [float("nan"), "a"], [float("inf"), "a"])),
        *(forged(one) for one in ([10**400, "a"], [1.0, "\ud800"], [True, "a"])),
        base64.urlsafe_b64encode(b'[1e999,"a"]').decode(),
        base64.urlsafe_b64encode(b'[1.0,"\xff"]').decode(),
    ],
)
def test_a_forged_cursor_is_refused(one, cursor):
    answer = one.get(f"/api/jobs?cursor={quote(cursor)}")
    assert (answer.status_code, answer.json()["error"]["details"]) == (400, {"path": "cursor"})


@LAW
@given(
    place=st.floats(allow_nan=False, allow_infinity=False),
    task=st.text(
        TEXT_IDS := st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=512
    ),
)
def test_a_cursor_comes_back_as_it_went(place, task):
    text = listing._cursor(place, task)
    assert read_cursor(text) == (place, task)
    assert Query.of({"cursor": [text]}).after == (place, task)


# --- badges ---------------------------------------------------------------------------------------


def badges(one) -> dict[str, list[str]]:
    return {row["id"]: row["badges"] for row in one.get("/api/jobs").json()["jobs"]}


def test_a_task_that_runs_far_beyond_its_usual_time_is_stalled(one):
    now = time.time()
    events = [event for n in range(20) for event in ended(f"done-{n}", now - 500, 1, 4)]
    for task, age in (("just", 5.0), ("late", 35.0), ("stalled", 60.0)):
        events.append(job(task, "active", now - age, startedAt=now - age))
    events.append(job("unknown", "active", now - 999, startedAt=now - 999, name="another"))
    one.post_events(events)
    found = {task: one for task, one in badges(one).items() if not task.startswith("done")}
    assert found == {"just": [], "late": [], "stalled": ["stalled"], "unknown": []}


def test_a_short_task_is_not_stalled_before_half_a_minute(one):
    now = time.time()
    events = ended("done", now - 500, 0, 0.001)
    events += [job("a", "active", now - 25, startedAt=now - 25)]
    events += [job("b", "active", now - 35, startedAt=now - 35)]
    one.post_events(events)
    assert badges(one) == {"done": [], "a": [], "b": ["stalled"]}


def test_an_active_task_on_a_worker_that_fell_silent_is_orphaned(one, monkeypatch):
    now = time.time()
    one.post_events(
        [
            worker("w@h", "busy", now),
            job("a", "active", now, workerId="w@h"),
            job("b", "queued", now, workerId="w@h"),
            job("c", "active", now, workerId="never-heard-of@h"),
        ]
    )
    assert badges(one) == {"a": [], "b": [], "c": []}
    monkeypatch.setattr(listing, "SILENT_AFTER", -1.0)
    assert badges(one) == {"a": ["orphaned"], "b": [], "c": []}


def test_two_actives_of_one_attempt_are_a_duplicate(one):
    now = time.time()
    one.post_events(
        [
            job("a", "active", now - 2, workerId="w1@h", startedAt=now - 2),
            job("a", "active", now - 1, workerId="w2@h", startedAt=now - 1),
            job("b", "active", now - 1, workerId="w2@h", startedAt=now - 1),
        ]
    )
    assert badges(one) == {"a": ["duplicate"], "b": []}


def test_many_retries_in_little_time_are_a_storm(one):
    now = time.time()
    events = []
    for attempt in range(1, 7):
        events.append(job("storm", "retrying", now - 60 + attempt, attempt=attempt))
        events.append(job("patient", "retrying", now - (7 - attempt) * 3600, attempt=attempt))
    events += [job("few", "retrying", now, attempt=n) for n in range(1, 5)]
    one.post_events(events)
    assert badges(one) == {"storm": ["storm"], "patient": [], "few": []}


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (None, None),
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1e18, None),
        (-1e18, None),
        (float("nan"), None),
        (float("inf"), None),
        (-62_135_596_800.0, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_times_are_of_the_calendar_or_none(at, text):
    assert iso(at) == text


@LAW
@given(text=TEXT | st.text("0123456789-+ ٣²", max_size=30))
def test_a_whole_number_is_read_or_refused(text):
    with contextlib.suppress(BadQuery):
        assert -5 <= whole("n", text, 0, -5, 10**6) <= 10**6
