"""Now, failures, names and badges: the figures are those of the collector."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from tests.collector.page.lives import ended, failed, wait_listed, wait_query
from tests.collector.wire import job, queue, worker

pytestmark = pytest.mark.xdist_group("page")

#: Stands where nothing is known.
NONE = "\N{EN DASH}"


def cells(page, table: str) -> list[list[str]]:
    """The texts of a table's body."""
    return page.eval_on_selector_all(
        f"#{table} tbody tr", "(rows) => rows.map((row) => [...row.cells].map((c) => c.innerText))"
    )


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


# --- now ------------------------------------------------------------------------------------------


def test_charts_say_their_figures(one, visit):
    now = time.time()
    at = now - now % 5 - 14  # six ends in one slot that is over, of the last minute
    one.post_events(
        [
            *(event for n in range(3) for event in ended(f"c{n}", at, wait=1, run=2)),
            *(event for n in range(3) for event in failed(f"f{n}", at, "KeyError", wait=2, run=4)),
        ]
    )
    page = visit(one)
    last = one.get("/api/now").json()["last"]
    expect(page.locator("#chart-throughput svg[role=img]")).to_have_attribute(
        "aria-label", "Throughput over the last 5 min. Last minute: 0.1/s, at most 1.2/s."
    )
    expect(page.locator("#chart-failures svg[role=img]")).to_have_attribute(
        "aria-label", "Failure rate over the last 5 min. Last minute: 50.0 %, at most 50.0 %."
    )
    for name in ("wait", "run"):
        p50, p95 = (seconds(last[f"{name}P{share}"]) for share in (50, 95))
        expect(page.locator(f"#chart-{name} svg[role=img]")).to_have_attribute(
            "aria-label",
            f"{name.title()} over the last 5 min. Last minute:"
            f" p50 {p50}, at most {p50}; p95 {p95}, at most {p95}.",
        )
        expect(page.locator(f"#chart-{name} .heads")).to_contain_text(p95)
    lines = page.locator("#chart-wait path.line")
    dashes = lines.evaluate_all("(all) => all.map((x) => getComputedStyle(x).strokeDasharray)")
    assert len(set(dashes[-2:])) == 2, "lines differ by more than colour"
    states = page.locator("#states")
    expect(states.get_by_role("link")).to_have_count(2)
    states.get_by_role("link", name="failed").click()
    wait_query(page, {"view": ["tasks"], "state": ["failed"]})
    wait_listed(page, ["f2", "f1", "f0"])


def test_queues(one, visit):
    now = time.time()
    one.post_events(
        [
            *(job(f"w{n}", "queued", now, queue="high") for n in range(3)),
            job("s", "scheduled", now, queue="high", scheduledFor=now + 60),
            job("a", "active", now, queue="low"),
            worker("w1@h", "idle", now, queues=["high", "low"]),
            queue("high", now, depth=17, consumers=2),
        ]
    )
    page = visit(one)
    expect(page.locator("#queues tbody tr")).to_have_count(2)
    assert cells(page, "queues") == [
        ["high", "3", "1", "0", "1", "17"],
        ["low", "0", "0", "1", "1", NONE],
    ]
    page.locator("#queues").get_by_role("link", name="high").click()
    wait_query(page, {"view": ["tasks"], "queue": ["high"]})


def test_workers_and_those_that_are_gone_are_folded_away(one, visit):
    now = time.time()
    metadata = {"pool": "prefork", "software": "celery", "version": "5.5.0", "processed": 1234}
    more = {"concurrency": 4, "activeJobs": 2, "queues": ["high", "low"]}
    suspects = [{"externalId": "t1", "name": "orders.charge", "attempt": 1, "runtime": 1.5}]
    one.post_events(
        [
            job("t1", "active", now - 9, workerId="dead@h", startedAt=now - 9),
            worker("w1@h", "busy", now, metadata=metadata | {"loadAverage": [0.5, 1, 2]}, **more),
            worker("calm@h", "offline", now),
            worker(
                *("dead@h", "offline", now),
                extensions={"reason": "killed", "activeTasks": suspects},
            ),
        ]
    )
    page = visit(one)
    expect(page.locator("#workers tbody tr")).to_have_count(1)
    (row,) = cells(page, "workers")
    assert row[:3] == ["w1@h", "busy", "prefork"]
    assert row[3].endswith(" s ago")
    assert row[4:] == ["2/4", "1,234", "high, low", "0.50", "celery 5.5.0"]
    fold = page.locator("#offline")
    expect(fold.locator("summary")).to_have_text("2 workers offline")
    expect(page.locator("#workers-offline")).to_be_hidden()
    fold.locator("summary").click()
    dead = page.locator("#workers-offline tr", has_text="dead@h")
    expect(dead).to_contain_text("offline killed")
    expect(dead.get_by_role("link", name="orders.charge")).to_be_visible()
    one.post_events([worker("w2@h", "idle", now), worker("late@h", "offline", now)])
    expect(fold.locator("summary")).to_have_text("3 workers offline")
    expect(dead).to_be_visible()
    dead.get_by_role("link", name="orders.charge").click()
    expect(page.locator("#task-id")).to_have_text("t1")
    expect(page.locator(".marks .chip")).to_have_text("lost")


# --- failures -------------------------------------------------------------------------------------


def test_failures_are_grouped_and_lead_to_their_tasks(one, visit):
    now = time.time()
    one.post_events(
        [
            *failed("a", now - 1300, "KeyError", "first", name="mails.send"),
            *failed("b", now - 20, "KeyError", "second", name="mails.send"),
            *failed("c", now - 30, "ValueError", name="mails.send"),
            *failed("d", now - 10, None, "nobody knows", name="orders.charge"),
            *ended("fine", now - 5, name="mails.send"),
        ]
    )
    page = visit(one, "/?view=failures")
    rows = page.locator("#failures tbody tr")
    expect(rows).to_have_count(3)
    first = rows.first
    expect(first.locator("th")).to_contain_text("KeyError")
    expect(first.locator("th")).to_contain_text("second")
    expect(first.locator("td").nth(1)).to_have_text("2")
    bars = first.locator("svg[role=img]")
    assert bars.get_attribute("aria-label").startswith("2 failures in the last 21 m ")
    high = bars.locator("rect").evaluate_all("(all) => all.map((x) => +x.getAttribute('height'))")
    assert len(high) == 24
    assert [at for at, height in enumerate(high) if height == 20] == [0, 23]
    times = first.locator("time").evaluate_all("(all) => all.map((x) => Date.parse(x.dateTime))")
    assert times == pytest.approx([(now - 1300) * 1000, (now - 20) * 1000], abs=2)
    first.get_by_role("link", name="KeyError", exact=True).click()
    wait_listed(page, ["b", "a"])
    page.go_back()
    page.get_by_role("link", name="Latest KeyError of mails.send").click()
    expect(page.locator("#task-id")).to_have_text("b")


# --- names ----------------------------------------------------------------------------------------


def test_names_with_their_figures_orders_and_search(one, visit):
    now = time.time()
    one.post_events(
        [
            *ended("a", now - 9, run=1, wait=1, name="orders.charge"),
            *ended("b", now - 8, run=7, wait=1, name="orders.charge"),
            *failed("c", now - 7, "KeyError", run=2, wait=1, name="orders.charge"),
            *ended("d", now - 7, run=30, wait=5, name="mails.send"),
            job("e", "queued", now, name="never.ran"),
        ]
    )
    page = visit(one, "/?view=names")
    expect(page.locator("#names tbody tr")).to_have_count(3)
    figures = {row["name"]: row for row in one.get("/api/names").json()["names"]}
    charge = cells(page, "names")[0]
    told = figures["orders.charge"]
    assert charge[:3] == ["orders.charge", "3", "33.3 %"]
    assert charge[3:7] == [
        seconds(told[name]) for name in ("waitP50", "waitP95", "runP50", "runP95")
    ]
    assert charge[7] == "7.00 s"
    assert [row for row in cells(page, "names") if row[0] == "never.ran"] == [
        ["never.ran", "1", *[NONE] * 6]
    ]
    page.locator("#names th").get_by_role("link", name="Wait p95").click()
    wait_query(page, {"view": ["names"], "by": ["wait"]})
    expect(page.locator("#names tbody th").first).to_have_text("mails.send")
    expect(page.locator("#names th[aria-sort=descending]")).to_have_text("Wait p95")
    page.locator("#search").fill("ORDERS")
    wait_query(page, {"view": ["names"], "by": ["wait"], "q": ["ORDERS"]})
    expect(page.locator("#names tbody tr")).to_have_count(1)
    other = page.context.new_page()
    other.goto(page.evaluate("() => location.href"))
    expect(other.locator("#names tbody tr")).to_have_count(1)
    expect(other.locator("#search")).to_have_value("ORDERS")
    page.get_by_role("link", name="33.3 %").click()
    wait_listed(page, ["c"])
    page.go_back()
    page.get_by_role("link", name="The slowest run of orders.charge: 7.00 s").click()
    expect(page.locator("#task-id")).to_have_text("b")


# --- badges ---------------------------------------------------------------------------------------


def test_badges(one, visit):
    now = time.time()
    retries = [
        event
        for n in range(1, 7)
        for event in (
            job("storm", "active", now - 60 + n, attempt=n, startedAt=now - 60 + n),
            job("storm", "retrying", now - 60 + n + 0.5, attempt=n),
        )
    ]
    one.post_events(
        [
            *(event for n in range(20) for event in ended(f"t{n}", now - 500, name="quick")),
            job("stalled", "active", now - 100, startedAt=now - 100, name="quick"),
            worker("asleep@h", "offline", now - 100),
            job("orphaned", "active", now - 50, startedAt=now - 50, workerId="asleep@h"),
            job("duplicate", "active", now - 30, startedAt=now - 30, workerId="w1@h"),
            job("duplicate", "active", now - 10, startedAt=now - 10, workerId="w2@h"),
            *retries,
        ]
    )
    page = visit(one, "/?view=tasks")
    meanings = {
        "stalled": "running far longer",
        "orphaned": "worker that is offline",
        "duplicate": "two runs of this id",
        "storm": "again and again",
    }
    for name in meanings:
        badge = page.locator(f"#tasks tr[data-id='{name}'] .badge")
        expect(badge).to_have_count(1)
        expect(badge).to_have_attribute("data-badge", name)
    expect(page.locator("#tasks .badge")).to_have_count(4)
    for name, meaning in meanings.items():
        page.goto(f"{one.url}/?view=task&id={name}")
        expect(page.locator(".marks .badge")).to_have_attribute("data-badge", name)
        expect(page.locator(".meanings")).to_contain_text(meaning)
