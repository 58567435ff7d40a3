"""The demo's Celery app, as a user would write it: ``sluice.init()`` and nothing else.

The key, the connection id and the URL come from the environment, as they would in
production.  Each task is given a text that must not leave the process, and some return it.
"""

# Celery's decorators have no types.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import os
import random
import time
from typing import Any

from celery import Celery

import sluice

#: How many times a synchronisation fails before the warehouse answers.
SYNC_RETRIES = 2

app = Celery("demo", broker=os.environ["DEMO_BROKER_URL"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
sluice.init()


def _work(shortest: float, longest: float) -> None:
    """Take some seconds, as if for a database or a partner's API."""
    time.sleep(random.uniform(shortest, longest))  # noqa: S311  not a secret


@app.task(name="orders.charge")
def charge(private: str) -> str:
    """Succeed, after a few milliseconds."""
    _work(0.005, 0.04)
    return private


@app.task(name="emails.send")
def send_email(_private: str) -> None:
    """Fail."""
    _work(0.002, 0.01)
    raise ConnectionRefusedError("the mail server does not answer")


@app.task(name="inventory.sync", bind=True, max_retries=SYNC_RETRIES + 1)
def sync_inventory(self: Any, _private: str) -> None:
    """Fail and be retried, until it succeeds."""
    _work(0.002, 0.01)
    if self.request.retries < SYNC_RETRIES:
        raise self.retry(exc=TimeoutError("the warehouse is busy"), countdown=0.5)


@app.task(name="reports.build")
def build_report(private: str) -> str:
    """Take its time."""
    _work(0.8, 1.2)
    return private


@app.task(name="reminders.later")
def remind(private: str) -> str:
    """Wait for its time at the worker, and succeed."""
    return private


@app.task(name="invoices.create")
def create_invoice(private: str) -> str:
    """Begin a chain: its worker sends the next task."""
    _work(0.005, 0.02)
    return private


@app.task(name="invoices.render")
def render_invoice(private: str) -> str:
    """Go on with the chain."""
    _work(0.01, 0.05)
    return private


@app.task(name="invoices.mail")
def mail_invoice(private: str) -> str:
    """End the chain."""
    _work(0.005, 0.02)
    return private
