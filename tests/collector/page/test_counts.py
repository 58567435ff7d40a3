"""What is not on the page is counted on it; clearing asks first; a token is not left lying."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import expect

from tests.collector.page.lives import wait_listed
from tests.collector.wire import job, worker

pytestmark = pytest.mark.xdist_group("page")

SOME = re.compile(r"\bsome\b")


def test_what_was_dropped_lost_and_pruned_stands_out(collector, visit):
    running = collector(max_tasks=3)
    page = visit(running)
    for name in ("dropped", "lost", "pruned"):
        figure = page.locator(f"#{name}")
        expect(figure).to_be_visible()
        expect(figure.locator("strong")).to_have_text("0")
        expect(figure).not_to_have_class(SOME)
    for name in ("refused", "invalid"):
        expect(page.locator(f"#{name}")).to_be_hidden()
    plain = page.locator("#dropped").evaluate("(one) => getComputedStyle(one).color")
    now = time.time()
    running.post_events(
        [
            job("a", "queued", now, extensions={"droppedEvents": 1234}),
            job("b", "active", now - 9, workerId="gone@h"),
            worker("gone@h", "offline", now),
            *(job(f"c{n}", "completed", now - 60 + n, completedAt=now - 60 + n) for n in range(8)),
            job("bad", "flying", now),
        ]
    )
    for name, number in (("dropped", "1,234"), ("lost", "1"), ("pruned", "7"), ("invalid", "1")):
        figure = page.locator(f"#{name}")
        expect(figure.locator("strong")).to_have_text(number)
        expect(figure).to_have_class(SOME)
        colour, weight = figure.evaluate(
            "(one) => [getComputedStyle(one).color, getComputedStyle(one).fontWeight]"
        )
        assert colour != plain
        assert int(weight) >= 600
    page.locator("#lost").click()
    wait_listed(page, ["b"])
    for view in ("failures", "names", "tasks"):
        page.locator(f"#nav a[data-view={view}]").click()
        expect(page.locator("#dropped")).to_be_in_viewport()


def test_clearing_asks_first(one, visit):
    one.post_events([job("a", "queued", extensions={"droppedEvents": 5})])
    page = visit(one, "/?view=tasks")
    wait_listed(page, ["a"])
    dialog = page.get_by_role("dialog", name="Clear everything?")

    def ask() -> None:
        page.locator("#clear-open").click()
        expect(dialog).to_be_visible()

    ask()
    expect(dialog.get_by_role("button", name="Keep")).to_be_focused()
    dialog.get_by_role("button", name="Keep").click()
    expect(dialog).to_be_hidden()
    ask()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert one.get("/api/now").json()["kept"]["tasks"] == 1
    ask()
    dialog.get_by_role("button", name="Clear").click()
    expect(page.locator("#tasks tr[data-id]")).to_have_count(0)
    expect(page.locator("#say")).to_have_text("1 task cleared")
    expect(page.locator("#dropped")).to_have_text("Dropped by SDK 0")
    assert one.get("/api/jobs").json()["jobs"] == []


def test_a_token_lets_in_and_does_not_stay_in_the_url(collector, visit):
    running = collector(host="0.0.0.0")
    running.post_events([job("a", "queued")])
    page = visit(running, allowed=("401",))
    expect(page.locator("body")).to_contain_text("asks for a token")
    page.goto(f"{running.url}/?token=wrong")
    expect(page.locator("body")).to_contain_text("asks for a token")
    page.goto(f"{running.url}/?view=tasks&token={running.collector.token}")
    wait_listed(page, ["a"])
    assert page.evaluate("() => location.href") == f"{running.url}/?view=tasks"
    assert page.evaluate("() => document.cookie") == "", "no script can read it"
    page.reload()
    wait_listed(page, ["a"])
    page.context.clear_cookies()  # as after a start of the collector with another token
    running.post_events([job("b", "queued")])
    expect(page.get_by_role("alert")).to_contain_text("This collector wants its token")
    expect(page.get_by_role("alert")).to_contain_text("sluice dev")
