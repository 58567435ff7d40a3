"""200,000 tasks: every row can be reached, and the document stays small."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from playwright.sync_api import expect

from tests.collector.wire import body, job

pytestmark = [pytest.mark.xdist_group("page"), pytest.mark.long, pytest.mark.timeout(1200)]

TASKS = 200_000
BATCH = 500
#: Rows in the document, whatever the length of the list.
MOST_ROWS = 300


def fill(running, now: float) -> None:
    """Post so many tasks, number 0 being the newest."""

    def post(first: int) -> None:
        events = [
            job(f"t{n:06}", "completed", now - n / 100, completedAt=now - n / 100)
            for n in range(first, first + BATCH)
        ]
        headers = {"Authorization": "Bearer sk_dev", "Content-Type": "application/json"}
        answer = requests.post(
            f"{running.url}/api/ingest", body(*events), headers=headers, timeout=60
        )
        assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(post, range(0, TASKS, BATCH)))


def test_two_hundred_thousand_tasks_are_scrolled_to_the_end(collector, visit):
    running = collector()
    start = time.monotonic()
    fill(running, time.time())
    print(f"\n  {TASKS} tasks filled in, in {time.monotonic() - start:.0f} s")
    start = time.monotonic()
    page = visit(running, "/?view=tasks")
    failed: list[str] = []
    page.on("response", lambda one: one.ok or failed.append(f"{one.status} {one.url}"))
    expect(page.locator("#tasks tr[data-id]").first).to_be_visible()
    print(f"  the first rows are there after {time.monotonic() - start:.2f} s")
    expect(page.locator("#tasks-count")).to_have_text("200,000 tasks")
    box, start, most, known = page.locator("#tasks-box"), time.monotonic(), 0, 0
    while True:
        rows, total, ended = page.evaluate(
            """() => {
              const box = document.querySelector("#tasks-box");
              box.scrollTop = box.scrollHeight;
              const ended = document.querySelector("#tasks").getAttribute("aria-rowcount") !== "-1";
              const rows = document.querySelectorAll("#tasks tr").length;
              return [rows, Math.round(box.scrollHeight / 36), ended];
            }"""
        )
        most, known = max(most, rows), max(known, total)
        if ended:
            break
        # The next page has come: there is more to scroll to.
        page.wait_for_function(
            f"""() => document.querySelector("#tasks-box").scrollHeight / 36 > {total + 1}
              || document.querySelector("#tasks").getAttribute("aria-rowcount") !== "-1" """
        )
    print(
        f"  scrolled through {known} rows in {time.monotonic() - start:.0f} s, {most} rows at most"
    )
    assert most <= MOST_ROWS
    box.evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
    expect(page.locator(f"#tasks tr[data-id='t{TASKS - 1:06}']")).to_be_in_viewport()
    expect(page.locator("#tasks")).to_have_attribute("aria-rowcount", str(TASKS + 1))
    # Pages that were dropped meanwhile are read again.
    for place in (100_000, 3, 199_990, 50_000):
        box.evaluate(f"(box) => {{ box.scrollTop = {36 * place}; }}")
        expect(page.locator(f"#tasks tr[data-id='t{place + 2:06}']")).to_be_in_viewport()
    assert page.locator("#tasks tr").count() <= MOST_ROWS
    assert failed == []
    size = page.evaluate("() => performance.memory?.usedJSHeapSize ?? 0") / 2**20
    print(f"  heap {size:.0f} MiB")
    assert size < 200
