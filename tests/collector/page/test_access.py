"""For keyboards, screen readers, narrow windows, both themes: by what Chromium computes."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.collector.page.lives import listed, wait_listed, wait_query
from tests.collector.page.scene import STORY, scene
from tests.collector.wire import job

pytestmark = pytest.mark.xdist_group("page")

#: Keys that are pressed one right after the other, however busy the machine is.
AT_ONCE = """(keys) => {
  for (const key of keys) {
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  }
}"""
VIEWS = {
    "now": ("/", "#workers tbody tr"),
    "tasks": ("/?view=tasks", "#tasks tr[data-id]"),
    "task": (f"/?view=task&id={STORY}", "#timeline .track"),
    "failures": ("/?view=failures", "#failures tbody tr"),
    "names": ("/?view=names", "#names tbody tr"),
}
#: Roles that mean nothing without a name.
NAMED = {
    *("button", "link", "checkbox", "combobox", "searchbox", "textbox", "Date", "DateTime"),
    *("DisclosureTriangle", "table", "region", "img", "image", "navigation", "dialog", "meter"),
    *("search", "columnheader", "contentinfo", "heading"),
}
#: Text whose contrast is below WCAG's AA: 4.5, and 3 where it is large.
FAINT = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = ([r, g, b, a], [R, G, B]) =>
    [[r, R], [g, G], [b, B]].map(([top, below]) => (top * a + below * (255 - a)) / 255);
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255).map((c) =>
      c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const below = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement)
      layers.unshift(rgba(getComputedStyle(at).backgroundColor));
    return layers.reduce((ground, layer) => over(layer, ground), [255, 255, 255]);
  };
  const found = [];
  let seen = 0;
  const look = (node, style, text) => {
    const ground = below(node);
    const [a, b] = [light(over(rgba(style.color), ground)), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    seen += 1;
    if (ratio < (large ? 3 : 4.5))
      found.push(`${ratio.toFixed(2)} ${node.outerHTML.slice(0, 120)} ${text}`);
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data.trim(), node = walk.currentNode.parentElement;
    if (!text || !node.checkVisibility({ visibilityProperty: true })) continue;
    look(node, getComputedStyle(node), text.slice(0, 30));
  }
  for (const node of document.querySelectorAll("[placeholder]"))
    look(node, getComputedStyle(node, "::placeholder"), node.placeholder);
  return [seen, found];
}"""
#: What has focus: what it is, and whether one can see it.
FOCUS = """() => {
  const node = document.activeElement;
  if (node === document.body) return null;
  const outlined = (style) => style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
  const seen = outlined(getComputedStyle(node)) || outlined(getComputedStyle(node, "::after")) ||
    (node.nextElementSibling !== null && node.matches(".toggle input") &&
      outlined(getComputedStyle(node.nextElementSibling)));
  return [node.outerHTML.slice(0, 100), seen];
}"""


@pytest.fixture
def shop(one):
    one.post_events(scene(time.time()))
    return one


def open_view(page: Page, url: str, view: str) -> None:
    path, there = VIEWS[view]
    page.goto(url + path)
    expect(page.locator(there).first).to_be_visible()
    expect(page.locator("#kept")).to_contain_text("kept")


def tree(page: Page) -> list[dict[str, Any]]:
    """What a screen reader is told."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        {
            "role": node.get("role", {}).get("value"),
            "name": node.get("name", {}).get("value", ""),
            **{one["name"]: one["value"].get("value") for one in node.get("properties", [])},
        }
        for node in nodes
        if not node.get("ignored")
    ]


# --- what is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_everything_has_a_name_and_its_place(view, shop, visit):
    page = visit(shop)
    open_view(page, shop.url, view)
    for fold in page.locator("details > summary:visible").all():
        fold.click()
    nodes = tree(page)
    nameless = [one for one in nodes if one["role"] in NAMED and not one["name"].strip()]
    assert nameless == []
    heads = [one for one in nodes if one["role"] == "heading"]
    levels = [one["level"] for one in heads]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for role in ("banner", "main", "contentinfo"):
        assert [one["role"] for one in nodes].count(role) == 1, role
    expect(page.get_by_role("navigation", name="Views")).to_be_visible()
    current = page.locator("#nav a[aria-current]")
    expect(current).to_have_count(1)
    assert page.evaluate("() => document.documentElement.lang") == "en"
    ids = page.eval_on_selector_all("[id]", "(all) => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    loose = page.locator("th:not([scope])").count()
    assert loose == 0
    pointing = page.eval_on_selector_all(
        "[aria-labelledby]", "(all) => all.map((one) => one.getAttribute('aria-labelledby'))"
    )
    assert set(pointing) <= set(ids)
    assert page.locator("[tabindex]").evaluate_all("(all) => all.every((one) => one.tabIndex <= 0)")


def test_the_table_is_a_table_to_who_does_not_see_it(shop, visit):
    for width in (1280, 360):
        page = visit(shop, "/?view=tasks", viewport={"width": width, "height": 720})
        expect(page.locator("#tasks tr[data-id]").first).to_be_visible()
        table = page.get_by_role("table", name="Tasks")
        expect(table).to_be_visible()
        row = page.locator("#tasks tr[data-id]").first
        expect(row).to_have_attribute("aria-rowindex", "2")
        assert table.get_by_role("row").count() > 10, width
        assert row.get_by_role("cell").count() >= 5, width
        assert table.get_by_role("columnheader").count() == 9, width


# --- the keyboard ---------------------------------------------------------------------------------


def test_focus_is_always_seen(shop, visit):
    page = visit(shop)
    for view in VIEWS:
        open_view(page, shop.url, view)
        stops = []
        for _ in range(40):
            page.keyboard.press("Tab")
            focus = page.evaluate(FOCUS)
            if focus is None:
                break
            stops.append(focus)
        assert len(stops) > 8, view
        assert [text for text, seen in stops if not seen] == [], view


def test_the_first_stop_skips_to_the_content(shop, visit):
    page = visit(shop)
    expect(page.locator("#workers tbody tr").first).to_be_visible()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    expect(page.locator("body")).to_have_attribute("data-view", "now")


def test_rows_by_keys(one, visit):
    now = time.time()
    one.post_events([job(f"t{n:02}", "queued", now - n) for n in range(60)])
    page = visit(one, "/?view=tasks")
    expect(page.locator("#tasks tr[data-id='t00']")).to_be_visible()
    page.keyboard.press("j")
    expect(page.locator("#tasks tr[data-id='t00'] a")).to_be_focused()
    for _ in range(45):
        page.keyboard.press("j")
    expect(page.locator("#tasks tr[data-id='t45'] a")).to_be_focused()
    expect(page.locator("#tasks tr[data-id='t45']")).to_be_in_viewport(ratio=1)
    page.keyboard.press("k")
    expect(page.locator("#tasks tr[data-id='t44'] a")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#task-id")).to_have_text("t44")
    expect(page.locator("h1")).to_be_focused()


def test_focus_stays_when_rows_come_and_change(one, visit):
    now = time.time()
    one.post_events([job(f"t{n}", "queued", now - 10 - n) for n in range(5)])
    page = visit(one, "/?view=tasks")
    wait_listed(page, [f"t{n}" for n in range(5)])
    for _ in range(3):
        page.keyboard.press("j")
    link = page.locator("#tasks tr[data-id='t2'] a")
    expect(link).to_be_focused()
    one.post_events([job("t2", "active", now - 5), job("new", "queued", now - 1)])
    expect(page.locator("#tasks tr[data-id='t2']")).to_have_attribute("data-state", "active")
    wait_listed(page, ["new", *(f"t{n}" for n in range(5))])
    expect(link).to_be_focused()
    page.keyboard.press("j")
    expect(page.locator("#tasks tr[data-id='t3'] a")).to_be_focused()


def test_single_keys(one, visit):
    one.post_events([job("a", "queued")])
    page = visit(one)
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    wait_query(page, {"view": ["tasks"]})
    page.keyboard.type("jk?p/gn")
    expect(page.locator("#search")).to_have_value("jk?p/gn")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#search")).not_to_be_focused()
    for key, view in (("f", "failures"), ("a", "names"), ("n", "now"), ("t", "tasks")):
        page.evaluate(AT_ONCE, ["g", key])
        expect(page.locator("body")).to_have_attribute("data-view", view)
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.locator("#keys-open").click()
    page.locator("#keys-on").uncheck()
    dialog.get_by_role("button", name="Close").click()
    wait_listed(page, ["a"])
    page.keyboard.press("p")
    page.keyboard.press("?")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "false")
    expect(dialog).to_be_hidden()
    page.reload()
    wait_listed(page, ["a"])
    page.keyboard.press("p")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "false")


# --- what is seen ---------------------------------------------------------------------------------


def test_nothing_is_wider_than_a_phone(shop, visit):
    page = visit(shop, viewport={"width": 360, "height": 720})
    for view in VIEWS:
        open_view(page, shop.url, view)
        for fold in page.locator("details > summary:visible").all():
            fold.click()
        wide = page.evaluate(
            "() => [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
        )
        assert max(wide) == 360, view
        for control in page.locator("#nav a, #theme, #clear-open, #filters select:visible").all():
            box = control.bounding_box()
            assert box["x"] >= 0, view
            assert box["x"] + box["width"] <= 360, view


def test_filters_can_be_used_on_a_phone(shop, visit):
    page = visit(shop, "/?view=tasks", viewport={"width": 360, "height": 720})
    expect(page.locator("#tasks tr[data-id]").first).to_be_visible()
    expect(page.locator("#filter-queue")).to_be_hidden()
    page.locator("#filters summary").click()
    page.locator("label.toggle", has_text="failed").click()
    page.locator("#filters summary").click()
    expect(page.locator("#filters summary")).to_have_text("Filters (1)")
    expect(page.locator("#tasks tr[data-id]:not([data-state=failed])")).to_have_count(0)
    assert listed(page) != []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_both_themes(theme, shop, visit):
    page = visit(shop, color_scheme=theme)
    for view in VIEWS:
        open_view(page, shop.url, view)
        for fold in page.locator("details > summary:visible").all():
            fold.click()
        seen, faint = page.evaluate(FAINT)
        assert seen > 40, view
        assert faint == [], view
    page.locator("#clear-open").click()
    assert page.evaluate(FAINT)[1] == []


def ground(page: Page) -> float:
    """How light the page is, 0 to 255."""
    colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    red, green, blue = (int(one) for one in colour.strip("rgb()").split(","))
    return (red + green + blue) / 3


def test_dark_by_the_system_and_by_choice(shop, visit):
    page = visit(shop, color_scheme="dark")
    root, theme = page.locator("html"), page.locator("#theme")
    assert ground(page) < 60
    page.emulate_media(color_scheme="light")
    assert ground(page) > 200
    for choice, dark in (("light", False), ("dark", True)):
        theme.click()
        expect(root).to_have_attribute("data-theme", choice)
        expect(theme).to_have_accessible_name(f"Theme: {choice}")
        assert (ground(page) < 60) is dark
    page.reload()
    expect(root).to_have_attribute("data-theme", "dark")
    assert ground(page) < 60
    expect(theme).to_have_accessible_name("Theme: dark")
    theme.click()
    expect(root).not_to_have_attribute("data-theme", "dark")
    assert ground(page) > 200


def test_nothing_moves_for_who_does_not_want_it(shop, visit):
    page = visit(shop, reduced_motion="reduce")
    for view in VIEWS:
        open_view(page, shop.url, view)
        moving = page.evaluate(
            """() => [...document.querySelectorAll("*")].filter((node) => {
              const style = getComputedStyle(node);
              return style.animationName !== "none" ||
                style.transitionDuration.split(", ").some((text) => parseFloat(text) > 0);
            }).map((node) => node.outerHTML.slice(0, 80))"""
        )
        assert moving == [], view
        assert page.evaluate("() => document.getAnimations().length") == 0
