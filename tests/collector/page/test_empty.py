"""Nothing to see: the page says why and which line changes it, and makes way by itself."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from tests.collector.page.lives import NOTE_TEXTS, wait_listed
from tests.collector.wire import job, worker

pytestmark = pytest.mark.xdist_group("page")

VIEWS = ("/", "/?view=tasks", "/?view=failures", "/?view=names")


def test_nothing_was_received(one, visit):
    page = visit(one, permissions=["clipboard-read", "clipboard-write"])
    for path in VIEWS:
        page.goto(one.url + path)
        told = page.locator("[data-diagnosis]")
        expect(told).to_have_attribute("data-diagnosis", "nothing")
        for line in (
            f"export SLUICE_DEV={one.url}",
            "import sluice; sluice.init()",
            "export SLUICE_ENABLED=1",
            "sluice doctor",
        ):
            expect(told.get_by_text(line, exact=True)).to_be_visible()
    button = told.get_by_role("button", name="Copy").first.element_handle()
    button.evaluate(NOTE_TEXTS)
    button.click()
    page.wait_for_function("(button) => button.texts.includes('Copied')", arg=button)
    assert page.evaluate("() => navigator.clipboard.readText()") == f"export SLUICE_DEV={one.url}"


@pytest.mark.parametrize("path", VIEWS)
def test_it_makes_way_when_something_comes(path, one, visit):
    page = visit(one, path)
    expect(page.locator("[data-diagnosis=nothing]")).to_be_visible()
    one.post_events([job("a", "queued", name="orders.charge")])
    expect(page.locator("[data-diagnosis]")).to_have_count(0)
    if "tasks" in path:
        wait_listed(page, ["a"])
    if "names" in path:
        expect(page.locator("#names")).to_contain_text("orders.charge")


def test_the_key_is_rejected(collector, visit):
    running = collector(api_key="sk_right")
    page = visit(running)
    expect(page.locator("[data-diagnosis=nothing]")).to_be_visible()
    assert running.post_events([job("a", "queued")], key="sk_wrong").status_code == 401
    told = page.locator("[data-diagnosis=key_rejected]")
    expect(told).to_be_visible()
    expect(told).to_contain_text("The key is rejected")
    line = (
        f"unset SLUICE_DEV; export SLUICE_API_URL={running.url}/api SLUICE_API_KEY=sk_…"
        " SLUICE_CONNECTION_ID=00000000-0000-4000-8000-000000000000"
    )
    expect(told.get_by_text(line, exact=True)).to_be_visible()
    expect(page.locator("#refused")).to_have_text("Refused 1")
    running.post_events([job("a", "queued")])
    expect(page.locator("[data-diagnosis]")).to_have_count(0)


def test_a_worker_is_here_but_no_task(one, visit):
    one.post_events([worker("w1@h", "idle", time.time())])
    page = visit(one, "/?view=tasks")
    told = page.locator("[data-diagnosis=no_tasks]")
    expect(told).to_contain_text("A worker is here, but no task yet")
    expect(told.get_by_text("task.delay()", exact=True)).to_be_visible()
    one.post_events([job("a", "queued")])
    wait_listed(page, ["a"])
    expect(page.locator("[data-diagnosis]")).to_have_count(0)


def test_nothing_has_failed(one, visit):
    one.post_events([job("a", "queued")])
    page = visit(one, "/?view=failures")
    expect(page.locator("main")).to_contain_text("Nothing has failed.")
    page.goto(f"{one.url}/?view=names&q=zzz")
    expect(page.locator("main")).to_contain_text("No task name fits.")
