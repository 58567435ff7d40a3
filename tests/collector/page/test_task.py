"""One task: when it waited and ran, how each attempt went, its family, and all that was heard."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.collector.page.lives import NOTE_TEXTS, ended, failed, wait_listed
from tests.collector.wire import job

pytestmark = pytest.mark.xdist_group("page")

#: Seconds; on the wire there are microseconds, and a text of binary fractions is exact.
AT = float(int(time.time()) - 100)


def retried() -> list:
    """An attempt that failed, one that was put off and completed."""
    first = {"workerId": "w1@h", "startedAt": AT + 1, "maxRetries": 3, "queue": "default"}
    second = {"workerId": "w2@h", "startedAt": AT + 11, "attempt": 2, "maxRetries": 3}
    return [
        job("a", "queued", AT, queue="default"),
        job("a", "active", AT + 1, **first),
        job(
            *("a", "retrying", AT + 3),
            **{"completedAt": AT + 3, "error": "no route", "stacktrace": "Traceback: one"} | first,
            extensions={"exceptionClass": "ConnectionError", "celeryEvent": "task-retried"},
        ),
        job("a", "scheduled", AT + 3, attempt=2, scheduledFor=AT + 10),
        job("a", "active", AT + 11, **second),
        job("a", "completed", AT + 14, completedAt=AT + 14, **second),
    ]


def test_waiting_being_put_off_and_running_are_told_apart(one, visit):
    one.post_events(retried())
    page = visit(one, "/?view=task&id=a")
    bars = page.locator("#timeline .track")
    expect(bars).to_have_count(2)
    assert [bars.nth(n).get_attribute("aria-label") for n in range(2)] == [
        "Attempt 1: waited 1.00 s, ran 2.00 s",
        "Attempt 2: put off 7.00 s, waited 1.00 s, ran 3.00 s",
    ]
    # 14 s in all: the bars are where the times are.
    run = page.locator("#timeline .track .part-run").nth(1)
    track, part = bars.nth(1).bounding_box(), run.bounding_box()
    assert (part["x"] - track["x"]) / track["width"] == pytest.approx(11 / 14, abs=0.01)
    assert part["width"] / track["width"] == pytest.approx(3 / 14, abs=0.01)
    colours = page.evaluate(
        """() => ["wait", "run", "delay"].map((kind) => {
          const style = getComputedStyle(document.querySelector(`#timeline .part-${kind}`));
          return [style.backgroundImage === "none", style.backgroundColor];
        })"""
    )
    assert [plain for plain, _ in colours] == [False, True, False], "by texture, not colour alone"
    facts = page.locator("#facts")
    for text in ("default", "w2@h", "1 of at most 3", "1.00 s", "3.00 s"):
        expect(facts).to_contain_text(text)


def test_attempts_with_their_own_errors(one, visit):
    one.post_events(retried())
    page = visit(one, "/?view=task&id=a")
    tried = page.locator("#attempts .attempts > li")
    expect(tried).to_have_count(2)
    expect(tried.nth(0)).to_contain_text("ConnectionError: no route")
    expect(tried.nth(0).locator(".chip")).to_have_text("retrying")
    expect(tried.nth(1).locator(".chip")).to_have_text("completed")
    expect(tried.nth(1)).not_to_contain_text("no route")
    expect(page.locator("#error")).to_be_hidden()
    tried.nth(0).locator("summary").click()
    expect(tried.nth(0).locator("pre")).to_have_text("Traceback: one")
    one.post_events([job("a", "completed", AT + 14, attempt=2)])  # heard once more
    expect(page.locator("#events summary").first).to_have_text("7 events")
    expect(tried.nth(0).locator("pre")).to_be_visible()


def test_a_traceback_is_copied_as_it_is(one, visit):
    one.post_events(failed("a", AT, "KeyError", "'é <b>'"))
    page = visit(one, "/?view=task&id=a", permissions=["clipboard-read", "clipboard-write"])
    error = page.locator("#error")
    expect(error).to_contain_text("KeyError: 'é <b>'")
    button = error.get_by_role("button", name="Copy traceback").element_handle()
    button.evaluate(NOTE_TEXTS)
    button.click()
    page.wait_for_function("(button) => button.texts.includes('Copied')", arg=button)
    assert page.evaluate("() => navigator.clipboard.readText()") == (
        "Traceback (most recent call last):\n  File \"app.py\", line 7\nKeyError: 'é <b>'"
    )
    expect(page.locator("#say")).to_have_text("Copied")
    page.get_by_role("button", name="Copy id").click()
    page.wait_for_function("""() => navigator.clipboard.readText().then((text) => text === "a")""")


def test_a_task_that_runs_is_told_as_running(one, visit):
    now = time.time()
    one.post_events([job("a", "queued", now - 9), job("a", "active", now - 8, startedAt=now - 8)])
    page = visit(one, "/?view=task&id=a")
    bar = page.locator("#timeline .track")
    label = bar.get_attribute("aria-label")
    assert label.startswith("Attempt 1: waited 1.00 s, running for ")
    expect(bar).not_to_have_attribute("aria-label", label)  # it goes on


def test_a_chain_is_a_tree_of_links(one, visit):
    one.post_events(
        [
            *ended("root", AT, name="start"),
            *ended("b", AT + 2, name="second", parentId="root", rootId="root"),
            *failed("c", AT + 4, "KeyError", name="third", parentId="b", rootId="root"),
            *ended("side", AT + 3, name="aside", parentId="root", rootId="root"),
        ]
    )
    page = visit(one, "/?view=task&id=b")
    tree = page.locator("#family .tree")
    expect(tree.first).to_contain_text("start")
    assert sorted(page.locator("#family a").all_inner_texts()) == ["aside", "start", "third"]
    expect(page.locator("#family [aria-current=true]")).to_contain_text("second")
    third = page.locator("#family li", has=page.get_by_role("link", name="third")).last
    expect(third.locator(".chip")).to_have_text("failed")
    page.get_by_role("link", name="third").click()
    expect(page.locator("h1")).to_have_text("third")
    expect(page.locator("#task-id")).to_have_text("c")
    expect(page.locator("#facts")).to_contain_text("root")
    page.locator("#facts").get_by_role("link", name="b", exact=True).click()
    expect(page.locator("h1")).to_have_text("second")


def test_parents_that_name_each_other_do_not_go_round(one, visit):
    one.post_events([job("a", "queued", AT, parentId="b"), job("b", "queued", AT, parentId="a")])
    page = visit(one, "/?view=task&id=a")
    expect(page.locator("#family .tree li")).to_have_count(2)


def test_every_event_as_it_was_sent(one, visit):
    sent = retried()
    one.post_events(sent)
    page = visit(one, "/?view=task&id=a")
    events = page.locator("#events")
    expect(events.locator("summary").first).to_have_text("6 events")
    expect(events.locator("pre")).to_have_count(0)
    events.locator("summary").first.click()
    expect(events.locator("ol.events > li")).to_have_count(6)
    third = events.locator("ol.events > li").nth(2)
    expect(third).to_contain_text("+3.00 s")
    expect(third).to_contain_text("task-retried")
    third.locator("summary").click()
    assert json.loads(third.locator("pre").inner_text()) == sent[2]


def test_an_id_may_be_any_text(one, visit):
    task = "a/b?c=d&e#f%20+/../ü😀 x;\\"
    one.post_events(ended(task, AT, name="odd"))
    page = visit(one, "/?view=tasks")
    wait_listed(page, [task])
    page.locator("#tasks .name a").click()
    expect(page.locator("h1")).to_have_text("odd")
    page.reload()
    expect(page.locator("h1")).to_have_text("odd")
    expect(page.locator("#task-id")).to_have_text(task)
    page.goto(f"{one.url}/?view=task&id={quote(task, safe='')}")
    expect(page.locator("h1")).to_have_text("odd")


def test_a_task_that_is_not_here(one, visit):
    page = visit(one, "/?view=task&id=none", allowed=("404",))
    expect(page.locator("#missing")).to_contain_text(
        "nothing was heard of it yet, or it was pruned"
    )
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#facts")).to_be_hidden()
    page.locator("#to-tasks").click()
    expect(page.locator("body")).to_have_attribute("data-view", "tasks")
