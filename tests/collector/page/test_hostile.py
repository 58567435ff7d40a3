"""Whatever a task, a worker or a queue is called: it is text, and nothing of it runs."""

from __future__ import annotations

import re
import time
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.collector.page.lives import wait_listed
from tests.collector.wire import job, queue, worker

pytestmark = pytest.mark.xdist_group("page")

IMG = "<img src=x onerror=alert(1)>"
SCRIPT = "\"'></title></script><script>alert(2)</script><svg onload=alert(3)>"
LINK = "javascript:alert(4)//"
TURNED = "\u202egnp.exe\u2066 \x07\x1b[31m {{7*7}} ${alert(5)} &lt;b&gt;"
ALL = (IMG, SCRIPT, LINK, TURNED)
LONG = "x" * 700
#: What our own script made of what came: nothing but what it makes of harmless texts.
UNSAFE = """() => [
  ...[...document.querySelectorAll("img, script, iframe, object, embed, form[action], base, meta")]
    .map((node) => node.outerHTML)
    .filter((text) => !text.includes("/page/") && !/^<meta (charset|name)=/.test(text)),
  ...[...document.querySelectorAll("[href], [src], [action]")]
    .flatMap((node) => [node.getAttribute("href"), node.getAttribute("src")])
    .filter((text) => text !== null && !/^(\\/(?!\\/)|#)/.test(text)),
  ...[...document.querySelectorAll("*")].flatMap((node) => [...node.attributes])
    .map((one) => one.name).filter((name) => name.startsWith("on")),
]"""


def texts(page: Page, selector: str) -> list[str]:
    return page.eval_on_selector_all(selector, "(all) => all.map((one) => one.textContent)")


@pytest.fixture
def hostile(one):
    """Each text in each place."""
    now = time.time()
    for n, text in enumerate(ALL):
        extensions = {"exceptionClass": text, "celeryEvent": text, text: text}
        fields = {"name": text, "queue": text, "workerId": text, "parentId": "a0", "rootId": text}
        suspects = [{"externalId": text, "name": text}]
        metadata = dict.fromkeys(("pool", "software", "version", "loadAverage", "processed"), text)
        answer = one.post_events(
            [
                job(f"a{n}", "queued", now - 50 - n, **fields),
                job(f"a{n}", "active", now - 40, startedAt=now - 40, **fields),
                job(
                    *(f"a{n}", "failed", now - 30),
                    **{"completedAt": now - 30, "error": text, "stacktrace": text} | fields,
                    extensions=extensions,
                ),
                job(f"{text} id", "active", now - 60 - n, **fields),
                worker(text, "busy", now, hostname=text, queues=[text], metadata=metadata),
                worker(
                    *(f"{text} gone", "offline", now),
                    extensions={"reason": text, "activeTasks": suspects},
                ),
                queue(text, now, depth=1, consumers=1),
            ]
        )
        assert answer.status_code == 200, answer.text
    return one


def safe(page: Page) -> None:
    page.wait_for_function("() => document.querySelector('#connection').dataset.state === 'live'")
    assert page.evaluate(UNSAFE) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_in_lists(hostile, visit):
    page = visit(hostile, "/?view=tasks")
    wait_listed(page, [*(f"a{n}" for n in range(4)), *(f"{text} id" for text in ALL)])
    assert texts(page, "#tasks .name a") == [*ALL, *ALL]
    assert texts(page, "#tasks tr[data-state=failed] .why") == list(ALL)
    for name in ("queue", "worker"):
        assert texts(page, f"#tasks td.{name}") == [*ALL, *ALL]
    options = page.locator("#filter-worker option")
    expect(options).to_have_count(9)
    assert set(ALL) < set(texts(page, "#filter-worker option"))
    # A text that turns round is held within its own cell.
    isolated = page.eval_on_selector_all(
        "#tasks .name a bdi", "(all) => all.map((one) => getComputedStyle(one).unicodeBidi)"
    )
    assert set(isolated) == {"isolate"}
    safe(page)
    for text in ALL:
        page.goto(
            f"{hostile.url}/?view=tasks&name={quote(text)}&worker={quote(text)}&q={quote(text)}"
        )
        expect(page.locator("#tasks tr[data-id]")).to_have_count(2)
        expect(page.locator("#search")).to_have_value(text)
        safe(page)
    page.goto(f"{hostile.url}/?view={quote(IMG)}&by={quote(IMG)}&exception={quote(SCRIPT)}")
    safe(page)


def test_on_its_own_page(hostile, visit):
    page = visit(hostile)
    for n, text in enumerate(ALL):
        page.goto(f"{hostile.url}/?view=task&id=a{n}")
        expect(page.locator("#error strong")).to_have_text(text, use_inner_text=False)
        assert page.locator("h1").text_content() == text
        words = (re.sub(r"[\x00-\x20]+", " ", one) for one in (page.title(), f"{text} · Sluice"))
        assert len(set(words)) == 1, "a title is text as well; browsers leave controls out of it"
        assert texts(page, "#error pre") == [text]
        assert texts(page, "#error .error-text") == [f"{text}: {text}"]
        page.locator("#attempts summary").click()
        expect(page.locator("#attempts pre")).to_be_visible()
        assert texts(page, "#attempts pre") == [text]
        assert set(ALL) <= set(texts(page, "#family bdi"))
        page.locator("#events summary").first.click()
        page.locator("#events ol summary").last.click()
        expect(page.locator("#events pre")).to_contain_text("externalId")
        safe(page)
    for text in ALL:
        page.goto(f"{hostile.url}/?view=task&id={quote(text + ' id', safe='')}")
        expect(page.locator(".marks .chip")).to_be_visible()
        assert page.locator("#task-id").text_content() == f"{text} id"
        safe(page)


def test_in_overviews(hostile, visit):
    page = visit(hostile)
    expect(page.locator("#workers tbody tr")).to_have_count(4)
    expect(page.locator("#queues tbody tr")).to_have_count(4)
    page.locator("#offline summary").click()
    expect(page.locator("#workers-offline tbody tr")).to_have_count(4)
    for selector in ("#workers th a", "#queues th a", "#workers-offline td a"):
        assert set(texts(page, selector)) == set(ALL)
    safe(page)
    page.goto(f"{hostile.url}/?view=failures")
    expect(page.locator("#failures tbody tr")).to_have_count(4)
    assert set(texts(page, "#failures tbody th a")) == set(ALL)
    safe(page)
    page.goto(f"{hostile.url}/?view=names")
    expect(page.locator("#names tbody tr")).to_have_count(4)
    assert set(texts(page, "#names tbody th a")) == set(ALL)
    safe(page)


def test_an_error_of_the_api_is_text(one, visit):
    answer = {"error": {"code": "X", "message": IMG}}
    routes = {"**/api/now": lambda route: route.fulfill(status=500, json=answer)}
    page = visit(one, routes=routes, allowed=("500",))
    expect(page.locator("#notice")).to_contain_text(IMG)
    safe(page)


@pytest.mark.parametrize("width", [360, 1280])
def test_what_has_no_end_breaks_no_page(width, one, visit):
    now = time.time()
    fields = {"name": LONG[:500], "queue": LONG[:255], "workerId": LONG[:500]}
    error = {"error": LONG, "stacktrace": LONG * 20, "completedAt": now, "startedAt": now - 1}
    answer = one.post_events(
        [
            job("a", "failed", now, extensions={"exceptionClass": LONG}, **fields, **error),
            job(LONG[:400], "active", now - 5, **fields),
            worker(LONG[:500], "busy", now, queues=[LONG[:255]] * 9, metadata={"pool": LONG}),
            queue(LONG[:255], now, depth=10**15),
        ]
    )
    assert answer.status_code == 200, answer.text
    page = visit(one, viewport={"width": width, "height": 720})
    for path, there in (
        ("/", "#workers tbody tr"),
        ("/?view=tasks", "#tasks tr[data-id]"),
        ("/?view=task&id=a", "#error pre"),
        (f"/?view=task&id={LONG[:400]}", ".marks .chip"),
        ("/?view=failures", "#failures tbody tr"),
        ("/?view=names", "#names tbody tr"),
        (
            f"/?view=tasks&name={LONG[:500]}&worker={LONG[:500]}&queue={LONG[:255]}",
            "#tasks tr[data-id]",
        ),
    ):
        page.goto(one.url + path)
        expect(page.locator(there).first).to_be_visible()
        safe(page)
