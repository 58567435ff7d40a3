"""A real browser before a real collector, and nothing that a page does wrong goes unseen."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

from tests.collector.conftest import Running
from tests.harness.missing import missing

NO_CHROMIUM = "Chromium is not installed (Debian: apt-get install chromium)"
ARGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-lcd-text",  # text of the same colours on every screen, and smaller pictures
)
PATIENCE = 20_000  # ms: CI shares its two cores
#: Of the page itself; what a style sheet or a script may not do is told in the console as well.
REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI}`));
"""


class Watch:
    """Keeps what went wrong in a context, but for errors that hold one of the `allowed` texts."""

    def __init__(self, context: BrowserContext, origin: str, allowed: tuple[str, ...]) -> None:
        self.faults: list[str] = []
        self._origin = origin
        self._allowed = allowed
        context.on("console", self._said)
        context.on("weberror", lambda error: self.faults.append(f"error: {error.error}"))
        context.on("dialog", self._asked)
        context.on("request", self._requested)

    def _said(self, message: ConsoleMessage) -> None:
        text = f"{message.type}: {message.text} ({message.location.get('url')})"
        if message.type in ("error", "warning") and not any(one in text for one in self._allowed):
            self.faults.append(text)

    def _asked(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((f"{self._origin}/", "data:", f"blob:{self._origin}/")):
            self.faults.append(f"request to another origin: {request.url}")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was heard of once is there to the end of a test: nobody beats for it here."""
    for module in ("summary", "listing"):
        monkeypatch.setattr(f"sluice.collector.{module}.SILENT_AFTER", 600.0)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The browser of this folder's tests.

    Playwright's loop counts as running while it is open, so no other folder's test may see it.
    """
    program = shutil.which("chromium")
    if program is None:
        missing(NO_CHROMIUM)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(ARGS))
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, collector: Callable[..., Running]) -> Iterator[Callable[..., Page]]:
    """Open a page of a collector in a window of its own: `visit(running, "/?view=tasks")`.

    `allowed` are texts in console errors that the test provokes, `routes` handlers by pattern; the
    other keywords are those of a context of Playwright's.  After the test each page must have kept
    quiet: no error, no violation of its policy, no dialog, no request to another origin.
    """
    # That `collector` is asked for has it end later than the pages that look at it.
    with contextlib.ExitStack() as opened:

        def start(
            running: Running,
            path: str = "/",
            *,
            allowed: tuple[str, ...] = (),
            routes: Mapping[str, Callable[[Route], Any]] | None = None,
            **options: Any,
        ) -> Page:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
            context.set_default_timeout(PATIENCE)
            context.add_init_script(REPORT_VIOLATIONS)
            watch = Watch(context, running.url, allowed)
            opened.callback(_end, context, watch)
            for pattern, handler in (routes or {}).items():
                context.route(pattern, handler)
            page = context.new_page()
            page.goto(running.url + path)
            return page

        yield start


def _end(context: BrowserContext, watch: Watch) -> None:
    for page in context.pages:
        page.evaluate("() => 0")  # what was said until now has come
    faults = list(watch.faults)
    context.close()
    assert faults == []
