"""The table of tasks: what is asked of it is in its URL, and a link shows the same again."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.collector.page.lives import ended, failed, query, wait_listed, wait_query
from tests.collector.wire import job, queue, worker

pytestmark = pytest.mark.xdist_group("page")

ALL = ["a1", "c1", "f1", "l1", "s1", "f2", "c2"]


@pytest.fixture
def full(one):
    """Seven tasks, the first of `ALL` heard of last; times are so many seconds ago."""
    now = time.time()
    charge = {"name": "orders.charge", "queue": "default", "workerId": "w1@h"}
    mail = {"name": "mails.send", "queue": "mail", "workerId": "w2@h"}
    one.post_events(
        [
            # Its worker was never heard of, so that nobody can say that it died.
            job("a1", "active", now - 20, **charge | {"workerId": "other@h"}, startedAt=now - 20),
            *ended("c1", now - 30, wait=3, run=2, **charge),
            *failed("f1", now - 40, "KeyError", "'id'", wait=1, run=1, **charge),
            job("l1", "active", now - 50, name="reports.build", workerId="gone@h", queue="slow"),
            worker("gone@h", "offline", now - 45),
            job("s1", "scheduled", now - 60, name="mails.later", scheduledFor=now + 60),
            *failed("f2", now - 400, "ValueError", "no address", wait=2, run=4, **mail),
            *ended("c2", now - 3000, wait=1, run=9, **mail),
            worker("w1@h", "idle", now),
            worker("w2@h", "idle", now, queues=["mail"]),
            queue("mail", now, depth=0),
        ]
    )
    return one


def toggle(state: str):
    return lambda page: page.locator(f"input[name=state][value={state}]").check(force=True)


def choose(name: str, value: str):
    return lambda page: page.locator(f"#filters select[name={name}]").select_option(value)


FILTERS = {
    "one state": (toggle("failed"), {"state": ["failed"]}, ["f1", "f2"]),
    "failures only": (
        lambda page: page.locator("#failures-only").check(force=True),
        {"state": ["failed", "lost"]},
        ["f1", "l1", "f2"],
    ),
    "a part of a name": (
        lambda page: page.locator("#search").fill("MAILS"),
        {"q": ["MAILS"]},
        ["s1", "f2", "c2"],
    ),
    "a part of an id": (lambda page: page.locator("#search").fill("2"), {"q": ["2"]}, ["f2", "c2"]),
    "a queue": (choose("queue", "mail"), {"queue": ["mail"]}, ["f2", "c2"]),
    "a worker": (choose("worker", "w1@h"), {"worker": ["w1@h"]}, ["c1", "f1"]),
    "a moving range": (choose("range", "5m"), {"range": ["5m"]}, ALL[:5]),
    "an order": (
        choose("sort", "slowest"),
        {"sort": ["slowest"]},
        ["c2", "f2", "c1", "f1", "s1", "l1", "a1"],
    ),
}


def test_each_filter_is_in_the_url_and_a_link_shows_the_same(full, visit):
    page = visit(full, "/?view=tasks")
    other = page.context.new_page()
    for name, filtered in FILTERS.items():
        page.locator("#nav a[data-view=tasks]").click()
        wait_listed(page, ALL)
        print(name)  # shown where this fails
        sets_its_url(page, other, *filtered)


def sets_its_url(
    page: Page, other: Page, act: Callable[[Page], object], wanted: dict[str, list[str]],
    ids: list[str],
) -> None:  # fmt: skip
    act(page)
    wait_query(page, {"view": ["tasks"]} | wanted)
    wait_listed(page, ids)
    other.goto(page.evaluate("() => location.href"))
    wait_listed(other, ids)
    for at in (page, other):
        shown = at.locator("#filters input:checked").evaluate_all(
            "(all) => all.map((x) => x.value)"
        )
        states = wanted.get("state", [])
        assert [one for one in shown if one != "on"] == states
        assert at.locator("#search").input_value() == wanted.get("q", [""])[0]
        for select in ("queue", "worker", "range", "sort"):
            value = wanted.get(select, ["newest" if select == "sort" else ""])[0]
            expect(at.locator(f"#filters select[name={select}]")).to_have_value(value)


def test_filters_add_up_and_are_removed_together(full, visit):
    page = visit(full, "/?view=tasks")
    for state in ("completed", "failed"):
        toggle(state)(page)
    wait_listed(page, ["c1", "f1", "f2", "c2"])
    wait_query(page, {"view": ["tasks"], "state": ["completed", "failed"]})
    choose("queue", "default")(page)
    wait_listed(page, ["c1", "f1"])
    page.locator("input[name=state][value=completed]").uncheck(force=True)
    wait_listed(page, ["f1"])
    expect(page.locator("#tasks-count")).to_have_text("1 task")
    page.locator("#search").fill("nothing has this name")
    expect(page.locator("#empty")).to_contain_text("No task matches these filters")
    page.locator("#unfilter").click()
    wait_listed(page, ALL)
    wait_query(page, {"view": ["tasks"]})
    assert page.locator("#search").input_value() == ""
    assert page.locator("#filters input:checked").count() == 0


def test_an_exact_name_and_an_exception_are_shown_and_taken_back(full, visit):
    page = visit(full, "/?view=tasks&name=mails.send&exception=ValueError")
    wait_listed(page, ["f2"])
    exact = page.locator(".exact-one")
    expect(exact).to_have_text(["Task: mails.send ✕", "Exception: ValueError ✕"])
    exact.nth(1).click()
    wait_listed(page, ["f2", "c2"])
    wait_query(page, {"view": ["tasks"], "name": ["mails.send"]})


def test_times_are_the_readers(full, visit):
    """Between two times, told and shown in the zone of who looks."""
    page = visit(full, "/?view=tasks", timezone_id="Asia/Kolkata")
    wait_listed(page, ALL)
    seen = {one["id"]: one["seenAt"] for one in full.get("/api/jobs").json()["jobs"]}
    there = timedelta(hours=5, minutes=30)
    since = datetime.fromisoformat(seen["f2"]) + there - timedelta(seconds=60)
    until = datetime.fromisoformat(seen["c1"]) + there - timedelta(seconds=2)
    page.locator("#filter-range").select_option("between")
    for name, at in (("since", since), ("until", until)):
        field = page.locator(f"input[name={name}]")
        field.fill(at.strftime("%Y-%m-%dT%H:%M:%S"))
        field.dispatch_event("change")
    wait_listed(page, ["f1", "l1", "s1", "f2"])
    (told,) = query(page)["since"]
    assert datetime.fromisoformat(told) == (since - there).replace(microsecond=0)
    other = page.context.new_page()
    other.goto(page.evaluate("() => location.href"))
    wait_listed(other, ["f1", "l1", "s1", "f2"])
    expect(other.locator("#filter-range")).to_have_value("between")
    expect(other.locator("input[name=since]")).to_have_value(since.strftime("%Y-%m-%dT%H:%M:%S"))


def test_orders_by_the_heads_of_columns(full, visit):
    page = visit(full, "/?view=tasks")
    wait_listed(page, ALL)
    expect(page.locator("th.seen")).to_have_attribute("aria-sort", "descending")
    page.locator("th.seen a").click()
    wait_listed(page, ALL[::-1])
    expect(page.locator("th.seen")).to_have_attribute("aria-sort", "ascending")
    page.locator("th.wait a").click()
    wait_query(page, {"view": ["tasks"], "sort": ["waited"]})
    wait_listed(page, ["c1", "f2", "f1", "c2", "s1", "l1", "a1"])
    expect(page.locator("th.wait")).to_have_attribute("aria-sort", "descending")
    expect(page.locator("th.seen")).to_have_attribute("aria-sort", "none")
    page.locator("th.run a").click()
    expect(page.locator("th.run")).to_have_attribute("aria-sort", "descending")
    wait_listed(page, ["c2", "f2", "c1", "f1", "s1", "l1", "a1"])
    expect(page.locator("select[name=sort]")).to_have_value("slowest")


def test_back_and_forward(full, visit):
    page: Page = visit(full)
    page.locator("#nav a[data-view=tasks]").click()
    wait_listed(page, ALL)
    toggle("failed")(page)
    wait_listed(page, ["f1", "f2"])
    page.locator("#search").fill("charge")
    wait_listed(page, ["f1"])
    page.locator("#tasks tr[data-id='f1'] .name a").click()
    expect(page.locator("body")).to_have_attribute("data-view", "task")
    expect(page.locator("h1")).to_have_text("orders.charge")
    expect(page).to_have_title("orders.charge · Sluice")
    page.go_back()
    wait_listed(page, ["f1"])
    expect(page.locator("#search")).to_have_value("charge")
    page.go_back()  # what was typed belongs to the step before
    wait_listed(page, ALL)
    page.go_back()
    expect(page.locator("body")).to_have_attribute("data-view", "now")
    page.go_forward()
    page.go_forward()
    wait_listed(page, ["f1"])
    expect(page.locator("#nav a[aria-current=page]")).to_have_text("Tasks")
    page.go_forward()
    page.locator("#to-tasks").click()
    wait_listed(page, ["f1"])


def test_the_way_back_leads_to_the_place_in_the_list(one, visit):
    now = time.time()
    one.post_events([job(f"t{n:03}", "queued", now - 500 + n) for n in range(300)])
    page = visit(one, "/?view=tasks")
    # The first page has come, and the next: before that there is no such place to scroll to.
    page.wait_for_function(
        "() => document.querySelector('#tasks-box').scrollHeight > 5400 + innerHeight"
    )
    page.locator("#tasks-box").evaluate("(box) => { box.scrollTop = 5400; }")
    row = page.locator("#tasks tr[data-id='t145']")
    expect(row).to_be_in_viewport()
    row.locator(".name a").click()
    expect(page.locator("#task-id")).to_have_text("t145")
    page.go_back()
    expect(row).to_be_in_viewport()
    assert page.locator("#tasks-box").evaluate("(box) => box.scrollTop") == 5400


def test_a_link_that_asks_for_what_there_is_not_shows_tasks(full, visit):
    page = visit(full, "/?view=tasks&state=flying&sort=upside&since=never&range=7y&q=%00")
    wait_listed(page, ALL)
    expect(page.locator("#notice")).to_be_hidden()
    page.goto(full.url + "/?view=elsewhere")
    expect(page.locator("body")).to_have_attribute("data-view", "now")


def test_exports_are_what_is_listed(full, visit):
    page = visit(full, f"/?view=tasks&state=failed&state=completed&q={quote('mails')}&sort=oldest")
    wait_listed(page, ["c2", "f2"])
    got = {}
    for kind in ("json", "csv"):
        with page.expect_download() as download:
            page.locator(f"#export-{kind}").click()
        assert download.value.suggested_filename == f"tasks.{kind}"
        got[kind] = download.value.path().read_text(encoding="utf-8")
    assert [one["id"] for one in json.loads(got["json"])] == ["c2", "f2"]
    assert [one["id"] for one in csv.DictReader(io.StringIO(got["csv"]))] == ["c2", "f2"]
