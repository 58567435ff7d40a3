"""What happens is on screen by itself."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.collector.page.lives import listed, wait_listed
from tests.collector.wire import Wire, job
from tests.harness.ports import free_port

pytestmark = pytest.mark.xdist_group("page")


def steps(task: str) -> list[tuple[str, Wire]]:
    """The states of a task that is retried once."""
    now = time.time() - 10
    first: dict[str, Any] = {"maxRetries": 3, "queue": "default", "workerId": "w1@h"}
    second = {**first, "attempt": 2, "startedAt": now + 5}
    error = {"error": "no route", "completedAt": now + 2}
    extensions = {"exceptionClass": "ConnectionError"}
    return [
        ("queued", job(task, "queued", now, maxRetries=3, queue="default")),
        ("active", job(task, "active", now + 1, startedAt=now + 1, **first)),
        ("retrying", job(task, "retrying", now + 2, extensions=extensions, **first, **error)),
        ("active", job(task, "active", now + 5, **second)),
        ("completed", job(task, "completed", now + 8, completedAt=now + 8, **second)),
    ]


def mark(page: Page) -> None:
    page.evaluate("() => { window.notReloaded = true; }")


def was_not_reloaded(page: Page) -> bool:
    return page.evaluate("() => window.notReloaded === true")


def test_a_task_goes_through_its_states_in_the_list(one, visit):
    page = visit(one, "/?view=tasks")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    mark(page)
    for state, event in steps("a"):
        one.post_events([event])
        expect(page.locator("#tasks tr[data-id='a']")).to_have_attribute("data-state", state)
        expect(page.locator("#tasks tr[data-id='a'] .chip")).to_have_text(state)
    row = page.locator("#tasks tr[data-id='a']")
    expect(row.locator(".attempt")).to_have_text("2/4")
    expect(row.locator(".run")).to_have_text("3.00 s")
    expect(row.locator(".worker")).to_have_text("w1@h")
    assert was_not_reloaded(page)


def test_a_task_goes_through_its_states_on_its_own_page(one, visit):
    page = visit(one, "/?view=task&id=a", allowed=("404",))
    expect(page.locator("#missing")).to_contain_text("This task is not here")
    mark(page)
    for state, event in steps("a"):
        one.post_events([event])
        expect(page.locator(".marks .chip")).to_have_attribute("data-state", state)
    expect(page.locator("h1")).to_have_text("orders.charge")
    expect(page.locator("#missing")).to_be_hidden()
    tried = page.locator("#attempts .attempts > li")
    expect(tried).to_have_count(2)
    expect(tried.nth(0)).to_contain_text("ConnectionError: no route")
    assert was_not_reloaded(page)


def test_now_moves_by_itself(one, visit):
    page = visit(one)
    mark(page)
    one.post_events([job("a", "active"), job("b", "active")])
    expect(page.locator("#states .chip[data-state=active]")).to_be_visible()
    expect(page.locator("#states")).to_contain_text("2")
    expect(page.locator("#kept")).to_contain_text("2 tasks")
    assert was_not_reloaded(page)


def test_new_rows_come_by_themselves_and_above(one, visit):
    now = time.time()
    page = visit(one, "/?view=tasks")
    one.post_events([job("a", "queued", now - 3)])
    wait_listed(page, ["a"])
    one.post_events([job("b", "queued", now - 2), job("c", "queued", now - 1)])
    wait_listed(page, ["c", "b", "a"])
    expect(page.locator("#tasks-count")).to_have_text("3 tasks")


def test_a_paused_table_holds_until_it_is_asked(one, visit):
    now = time.time()
    one.post_events([job("a", "queued", now - 9)])
    page = visit(one, "/?view=tasks")
    wait_listed(page, ["a"])
    page.locator("#pause").click()
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    one.post_events([job("b", "queued", now - 8), job("a", "active", now - 7)])
    expect(page.locator("#newer")).to_have_text("1 new: show")
    assert listed(page) == ["a"]
    expect(page.locator("#tasks tr[data-id='a']")).to_have_attribute("data-state", "queued")
    page.locator("#newer").click()
    wait_listed(page, ["b", "a"])
    expect(page.locator("#newer")).to_be_hidden()
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("p")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("p")
    one.post_events([job("c", "queued", now - 1)])
    wait_listed(page, ["c", "b", "a"])


def test_a_table_that_was_scrolled_does_not_move(one, visit):
    now = time.time()
    one.post_events([job(f"t{n:03}", "queued", now - 500 + n) for n in range(200)])
    page = visit(one, "/?view=tasks")
    expect(page.locator("#tasks tr[data-id='t199']")).to_be_visible()
    page.locator("#tasks-box").evaluate("(box) => { box.scrollTop = 1500; }")
    row = page.locator("#tasks tr[data-id='t155']")
    expect(row).to_be_in_viewport()
    before = row.bounding_box()
    one.post_events([job(f"new{n}", "queued", now - n) for n in range(4)])
    expect(page.locator("#newer")).to_have_text("4 new: show")
    assert row.bounding_box() == before
    page.locator("#newer").click()
    expect(page.locator("#tasks tr[data-id='new0']")).to_be_in_viewport()


def test_without_the_stream_it_asks(one, visit):
    routes = {"**/api/live": lambda route: route.abort()}
    page = visit(one, "/?view=tasks", routes=routes, allowed=("ERR_FAILED",))
    expect(page.locator("#connection")).to_have_attribute("data-state", "polling")
    for state, event in steps("a")[:2]:
        one.post_events([event])
        expect(page.locator("#tasks tr[data-id='a']")).to_have_attribute("data-state", state)
    expect(page.locator("#notice")).to_be_hidden()


def test_a_collector_that_went_away_and_came_back(collector, visit, tmp_path):
    gone = collector(db=tmp_path / "events.db", port=free_port())
    gone.post_events([job("a", "queued")])
    page = visit(gone, "/?view=tasks", allowed=("ERR_", "503"))
    wait_listed(page, ["a"])
    gone.close()
    expect(page.locator("#connection")).to_have_attribute("data-state", "lost")
    expect(page.locator("#notice")).to_contain_text("does not answer")
    assert listed(page) == ["a"], "what was read stays"
    back = collector(db=tmp_path / "events.db", port=gone.port)
    back.post_events([job("a", "active")])
    expect(page.locator("#tasks tr[data-id='a']")).to_have_attribute("data-state", "active")
    expect(page.locator("#notice")).to_be_hidden()


def test_an_error_of_the_collector_is_told_until_it_is_over(one, visit):
    answer = {"error": {"code": "SERVICE_UNAVAILABLE", "message": "The database is away"}}
    routes = {"**/api/jobs?*": lambda route: route.fulfill(status=503, json=answer)}
    page = visit(one, "/?view=tasks", routes=routes, allowed=("503",))
    expect(page.get_by_role("alert")).to_contain_text("The database is away")
    page.context.unroute("**/api/jobs?*")
    one.post_events([job("a", "queued")])
    wait_listed(page, ["a"])
    expect(page.locator("#notice")).to_be_hidden()
