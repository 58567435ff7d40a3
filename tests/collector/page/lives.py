"""Lives of tasks as they are sent, and what the browser shows of them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from playwright.sync_api import Page

from tests.collector.wire import Wire, job
from tests.harness import wait_for

#: Keeps the texts that a button shows for a while, in `texts`.
NOTE_TEXTS = """(button) => {
  button.texts = [];
  new MutationObserver(() => button.texts.push(button.textContent)).observe(button, {
    childList: true, characterData: true, subtree: true });
}"""


def ended(
    task: str, at: float, *, wait: float = 1.0, run: float = 1.0, **fields: Any
) -> list[Wire]:
    """A task that ended at this time, after it waited and ran so many seconds."""
    state = fields.pop("state", "completed")
    extensions = fields.pop("extensions", {})
    end = {name: fields.pop(name) for name in ("error", "stacktrace") if name in fields}
    start = at - run
    return [
        job(task, "queued", start - wait, **fields),
        job(task, "active", start, startedAt=start, **fields),
        job(
            *(task, state, at),
            **{"startedAt": start, "completedAt": at} | end | fields,
            extensions=extensions,
        ),
    ]


def failed(
    task: str, at: float, exception: str | None, error: str = "it broke", **fields: Any
) -> list[Wire]:
    """A task that failed at this time, with a traceback."""
    extensions = {} if exception is None else {"exceptionClass": exception}
    traceback = f'Traceback (most recent call last):\n  File "app.py", line 7\n{exception}: {error}'
    fields = {"error": error, "stacktrace": traceback} | fields
    return ended(task, at, state="failed", extensions=extensions, **fields)


def listed(page: Page) -> list[str]:
    """The ids of the rows in the table of tasks, from above."""
    return page.eval_on_selector_all(
        "#tasks tr[data-id]", "(rows) => rows.map((row) => row.dataset.id)"
    )


def wait_listed(page: Page, ids: list[str]) -> None:
    """Wait until the table has just these rows."""
    wait_for(lambda: listed(page) == ids, 20, lambda: f"{ids}; there are {listed(page)}")


def query(page: Page) -> dict[str, list[str]]:
    """What the URL says.  (`page.url` is as old as the last event that was taken in.)"""
    return parse_qs(page.evaluate("() => location.search.slice(1)"))


def wait_query(page: Page, wanted: dict[str, list[str]]) -> None:
    """Wait until the URL says just this."""
    wait_for(lambda: query(page) == wanted, 20, lambda: f"{wanted}; the URL has {query(page)}")
