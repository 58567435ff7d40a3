"""5,000 events a second on two cores, and a page that stays fast at 200,000 tasks."""

from __future__ import annotations

import multiprocessing
import statistics
import time
import uuid
from typing import Any

import msgspec
import pytest
import requests

from tests.collector.wire import stamp
from tests.harness import CONNECTION_ID

RATE = 5_000
#: More than are kept, so that pruning goes on meanwhile.
TASKS = 220_000
BATCH = 500
#: What the page asks for, and a person waits for.
VIEWS = (
    "/api/now", "/api/jobs", "/api/jobs?state=failed", "/api/jobs?q=task_17",
    "/api/jobs?sort=slowest", "/api/names", "/api/failures", "/api/queues", "/api/workers",
)  # fmt: skip
SLOWEST = 1.0


def life(number: int, run: str) -> list[dict[str, Any]]:
    """Four events of one task; one in twenty fails."""
    now = time.time()
    task = f"{run}-{number:012d}"
    failed = number % 20 == 0
    started, ended = now + 0.002, now + 0.002 + (number % 300) / 1000
    extensions = {"pid": 4711, "runtime": ended - started}
    steps = [
        ("queued", now, {"celeryEvent": "task-sent"}),
        ("queued", now + 0.001, {"celeryEvent": "task-received"}),
        ("active", started, {"celeryEvent": "task-started"}),
        (
            "failed" if failed else "completed",
            ended,
            extensions | ({"exceptionClass": f"Error{number % 7}"} if failed else {}),
        ),
    ]
    events = []
    for place, (state, at, more) in enumerate(steps):
        job = {
            "externalId": task, "name": f"app.tasks.task_{number % 40}", "state": state,
            "queue": f"queue-{number % 5}", "attempt": 1,
        }  # fmt: skip
        if place:
            job["workerId"] = f"worker-{number % 8}@host"
        if place > 1:
            job["startedAt"] = stamp(started)
        if place > 2:
            job["completedAt"] = stamp(ended)
        if place > 2 and failed:
            job |= {"error": f"it broke at {number}", "stacktrace": "Traceback\n" * 30}
        job["extensions"] = {**more, "eventId": f"{run}-{number * 4 + place}"}
        events.append(
            {
                "type": "job_state_change", "timestamp": stamp(at), "framework": "celery",
                "connectionId": CONNECTION_ID, "job": job,
            }
        )  # fmt: skip
    return events


def post(url: str, tasks: range, rate: float, told: Any) -> None:
    """Post the lives of these tasks, at most so many events a second; in a process of its own."""
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = "Bearer sk_dev"
    run, start, sent = uuid.uuid4().hex[:12], time.monotonic(), 0
    events: list[dict[str, Any]] = []
    for number in tasks:
        events += life(number, run)
        if len(events) >= BATCH or number == tasks[-1]:
            body = msgspec.json.encode({"events": events})
            answer = session.post(f"{url}/api/ingest", body, timeout=60)
            assert answer.status_code == 200, answer.text
            sent += len(events)
            events = []
            if rate and (early := start + sent / rate - time.monotonic()) > 0:
                time.sleep(early)
    told.put((sent, time.monotonic() - start))


def look(running: Any, sender: Any) -> dict[str, list[float]]:
    """Ask for all views, again and again, while the sender sends: seconds for each answer."""
    times: dict[str, list[float]] = {view: [] for view in VIEWS}
    while sender.is_alive():
        for view in VIEWS:
            start = time.monotonic()
            assert running.get(view).status_code == 200
            times[view].append(time.monotonic() - start)
        sender.join(0.3)
    return times


def sending(running: Any, tasks: range, rate: float) -> tuple[Any, Any]:
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    sender = context.Process(target=post, args=(running.url, tasks, rate, told), daemon=True)
    sender.start()
    return sender, told


@pytest.mark.long
@pytest.mark.timeout(900)
def test_five_thousand_events_a_second_and_200_000_tasks_with_a_page_that_stays_fast(collector):
    running = collector()
    sender, told = sending(running, range(TASKS), 0)
    filling = look(running, sender)
    sent, seconds = told.get(timeout=10)
    assert sender.exitcode == 0
    print(
        f"\n  as fast as it goes: {sent} events in {seconds:.1f} s, {sent / seconds:.0f} a second"
    )
    assert sent / seconds >= RATE
    sender, told = sending(running, range(TASKS, TASKS + 25_000), RATE)
    paced = look(running, sender)
    sent, seconds = told.get(timeout=10)
    assert sender.exitcode == 0
    print(f"  at {RATE} a second, with 200,000 tasks: {sent / seconds:.0f} a second")
    assert sent / seconds >= 0.98 * RATE
    for title, times in (("filling", filling), ("full", paced)):
        for view in VIEWS:
            values = sorted(times[view])
            p95 = values[int(len(values) * 0.95)]
            print(
                f"  {title}: {view}: p50 {statistics.median(values) * 1000:.0f} ms,"
                f" p95 {p95 * 1000:.0f} ms of {len(values)}"
            )
            assert p95 < SLOWEST, (title, view)
    kept = running.get("/api/now").json()
    assert kept["kept"]["tasks"] <= 210_000, "pruning keeps pace"
    assert kept["heard"]["duplicates"] == 0
