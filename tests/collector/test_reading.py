"""What all of the read API has in common; events, ticks and clear."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from sluice.collector.reader import Reader
from tests.collector.wire import job, queue, worker
from tests.harness import wait_for

AT = 1_760_000_000.0
WITHOUT_PARAMETERS = [
    *("/api/workers", "/api/queues", "/api/now", "/api/failures", "/api/names", "/api/tick"),
    *("/api/live", "/api/jobs/a"),
]


@pytest.mark.parametrize("path", [*WITHOUT_PARAMETERS, "/api/jobs", "/api/events", "/api/export"])
def test_an_unknown_parameter_is_refused(one, path):
    one.post_events([job("a", "queued")])
    answer = one.get(f"{path}?nothing=1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR")
    assert answer.json()["error"]["details"] == {"path": "nothing"}


def test_it_is_healthy_and_asks_nothing(one):
    answer = one.get("/api/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", [*WITHOUT_PARAMETERS[:-2], "/api/jobs", "/api/events", "/"])
def test_a_head_has_no_body(one, path):
    answer = one.session.head(one.url + path, timeout=20)
    assert (answer.status_code, answer.content) == (200, b"")


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        *(
            "a/b",
            "/",
            "//",
            "a/",
            "/a",
            "a b",
            "100%",
            "%2F",
            "a?b",
            "a#b",
            "é",
            "課題",
            "\U0001f600",
        ),
        *(
            "a\nb",
            "a\n",
            "\r\n",
            "a\tb",
            "a+b",
            "a&b=c",
            "<img src=x onerror=alert(1)>",
            "\\",
            "a;b",
        ),
        *("\x01", "\x7f", "'", '"', "{task}", ":", "\U0001f600" * 512),
    ],
    ids=lambda task: repr(task)[:20],
)
def test_a_task_is_found_by_whatever_id_it_has(one, task):
    one.post_events([job(task, "queued", name="right"), job("a", "queued", name="wrong")])
    answer = one.get(f"/api/jobs/{quote(task, safe='')}")
    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["name"]) == (task, "right")
    (event,) = one.get(f"/api/events?job={quote(task, safe='')}").json()["events"]
    assert event["event"]["job"]["externalId"] == task


@pytest.mark.parametrize("path", ["nobody", "", "a%00", "%ff%fe", "%ed%a0%80"])
def test_a_task_that_nobody_heard_of_is_refused(one, path):
    answer = one.get(f"/api/jobs/{path}")
    assert answer.status_code == (400 if "%00" in path else 404)
    assert answer.headers["content-type"] == "application/json"


# --- events ---------------------------------------------------------------------------------------


def test_events_come_in_order_in_pages_and_once(one):
    for n in range(25):
        one.post_events([job(f"t{n}", "queued"), worker("w@h", "busy"), queue("q")])
    found, after = [], 0
    while True:
        answer = one.get(f"/api/events?after={after}&limit=10").json()
        if not answer["events"]:
            break
        found += answer["events"]
        assert answer["last"] > after
        after = answer["last"]
    assert [event["event"]["job"]["externalId"] for event in found] == [f"t{n}" for n in range(25)]
    assert [event["seq"] for event in found] == sorted({event["seq"] for event in found})
    assert all(event["receivedAt"].endswith("Z") for event in found)
    assert one.get(f"/api/events?after={after}").json() == {"events": [], "last": after}


def test_events_of_one_task(one):
    one.post_events([job("a", "queued"), job("b", "queued"), job("a", "active")])
    answer = one.get("/api/events?job=a").json()
    assert [event["event"]["job"]["state"] for event in answer["events"]] == ["queued", "active"]
    assert one.get("/api/events?job=nobody").json()["events"] == []


def test_who_begins_now_asks_for_the_last_number_alone(one):
    one.post_events([job("a", "queued")])
    start = one.get("/api/events?after=-1").json()
    assert start["events"] == []
    one.post_events([job("b", "queued")])
    answer = one.get(f"/api/events?after={start['last']}").json()
    assert [event["event"]["job"]["externalId"] for event in answer["events"]] == ["b"]


def test_who_follows_events_misses_none_after_a_clear(one):
    one.post_events([job("a", "queued"), job("b", "queued")])
    after = one.get("/api/events").json()["last"]
    assert one.post("/api/clear").json() == {"cleared": 2}
    after = one.get(f"/api/events?after={after}").json()["last"]
    one.post_events([job("c", "queued")])
    answer = one.get(f"/api/events?after={after}").json()
    assert [event["event"]["job"]["externalId"] for event in answer["events"]] == ["c"]


@pytest.mark.parametrize(
    "query",
    [
        *(
            "after=-2",
            "after=x",
            "after=--1",
            "after=",
            "after=1.0",
            f"after={2**53 + 1}",
            "after=1e3",
        ),
        *("limit=0", "limit=1001", "limit=--5", "job=a&job=b", "job=%00", "after=0&after=0"),
    ],
)
def test_what_is_no_number_of_an_event_is_refused(one, query):
    answer = one.get(f"/api/events?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == {"path": query.partition("=")[0]}


# --- ticks and clear ------------------------------------------------------------------------------


def test_the_tick_grows_with_what_changes_and_only_then(one):
    def tick() -> int:
        return one.get("/api/tick").json()["seq"]

    before = tick()
    one.post_events([job("a", "queued")])
    first = wait_for(lambda: (now := tick()) > before and now)
    one.get("/api/jobs")
    assert tick() == first
    one.post("/api/clear")
    assert tick() > first


def test_clear_forgets_everything_at_once(one):
    now = time.time()
    one.post_events(
        [
            job("a", "failed", now, completedAt=now, extensions={"droppedEvents": 5}),
            worker("w@h", "online", now),
            queue("q", now, depth=3),
        ]
    )
    for path in WITHOUT_PARAMETERS[:5]:
        one.get(path)  # so that there is something kept
    assert one.post("/api/clear").json() == {"cleared": 1}
    assert one.get("/api/jobs").json() == {"jobs": [], "next": None}
    assert one.get("/api/workers").json() == {"workers": []}
    assert one.get("/api/queues").json() == {"queues": []}
    assert one.get("/api/failures").json()["failures"] == []
    assert one.get("/api/names").json() == {"names": []}
    told = one.get("/api/now").json()
    assert (told["counts"], told["dropped"], told["diagnosis"]) == ({}, 0, "nothing")
    assert (told["kept"]["tasks"], told["kept"]["events"], told["kept"]["bytes"]) == (0, 0, 0)
    assert one.get("/api/jobs/a").status_code == 404
    one.post_events([job("b", "queued")])
    assert [row["id"] for row in one.get("/api/jobs").json()["jobs"]] == ["b"]


def test_clear_takes_no_parameter(one):
    assert one.post("/api/clear?all=1").status_code == 400


# --- trouble --------------------------------------------------------------------------------------


def test_a_database_that_fails_is_503_for_readers_too(collector, monkeypatch, caplog):
    one = collector()

    def failing(*_: object) -> None:
        raise sa.exc.OperationalError("SELECT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as broken:
        broken.setattr(Reader, "_run", failing)
        for _ in range(3):
            for path in ("/api/jobs", "/api/jobs/a", "/api/now", "/api/events"):
                answer = one.get(path)
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "UNAVAILABLE"
                assert int(answer.headers["retry-after"]) >= 1
    assert caplog.text.count("reading failed") == 1
    assert "Traceback" not in caplog.text
    assert one.get("/api/jobs").status_code == 200


def test_a_fault_of_its_own_is_500_and_says_nothing_of_its_inside(one, monkeypatch, caplog):
    def faulty(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(Reader, "_run", faulty)
    for _ in range(2):  # on one connection: each answer says whether it can be used again
        answer = one.get("/api/jobs")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "INTERNAL_ERROR")
        assert "secret" not in answer.text
        assert answer.headers["connection"] == "close"
    assert "the secret of the house" in caplog.text, "it is in the log"
