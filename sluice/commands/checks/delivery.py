"""Is the key accepted, and does an event arrive: posted just as a worker posts."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterator
from math import inf
from typing import Final

from sluice import detect, native
from sluice.commands.address import TOKEN_VARIABLE, Address
from sluice.commands.checks import Check
from sluice.commands.client import Collector
from sluice.commands.ending import NoAnswer
from sluice.config import Settings
from sluice.events import Job, encode_job, moment
from sluice.http import Deliverer, Outcome, Patience, Verdict

#: What the test event's task is called.
NAME: Final = "sluice.doctor"
#: Seconds in which what was taken should be seen.
_SEEN_WITHIN: Final = 5.0
_LOOK_EVERY: Final = 0.1
_EMPTY: Final = b'{"events":[]}'
_KEY: Final = "key"
_EVENT: Final = "test event"


def key(settings: Settings, *, is_dev: bool) -> Check:
    """Post a batch without events: only a refused key is refused for the key."""
    outcome = _posted(settings, _EMPTY)
    if outcome.verdict in (Verdict.DELIVERED, Verdict.REJECTED):
        return Check(_KEY, "ok", f"accepted ({outcome.reason} to a batch without events)")
    if outcome.verdict is Verdict.UNAUTHORIZED:
        fix = "copy the key of this connection again from the dashboard: SLUICE_API_KEY=sk_..."
        if is_dev:
            fix = (
                "this collector has a key of its own (sluice dev --api-key): set SLUICE_API_URL,"
                " SLUICE_API_KEY and SLUICE_CONNECTION_ID (any UUID) in the place of SLUICE_DEV"
            )
        return Check(_KEY, "failed", f"refused: {outcome.reason}", fix)
    return _in_the_way(_KEY, outcome)


def reader(settings: Settings, token: str | None, *, is_dev: bool) -> Collector | None:
    """The read API of the collector that events go to; None: it is another kind of API."""
    collector = Collector(Address(settings.api_url, token))
    if is_dev:
        return collector
    try:
        return collector if "seq" in collector.get("tick") else None
    except NoAnswer:
        return None


def event(settings: Settings, collector: Collector | None) -> Iterator[Check]:
    """Send a test event, and look for it in the collector, where there is one."""
    task_id = str(uuid.uuid4())
    outcome = _posted(settings, b'{"events":[%b]}' % _encoded(settings.connection_id, task_id))
    if outcome.verdict is not Verdict.DELIVERED:
        yield _in_the_way(_EVENT, outcome)
        return
    yield Check(_EVENT, "ok", f"the completed task {NAME} {task_id} was taken")
    if collector is not None:
        yield _seen(collector, task_id)


def _seen(collector: Collector, task_id: str) -> Check:
    until = time.monotonic() + _SEEN_WITHIN
    while True:
        try:
            job = collector.get(f"jobs/{task_id}")
        except NoAnswer as error:
            if error.status == 404 and time.monotonic() < until:
                time.sleep(_LOOK_EVERY)
                continue
            if error.status == 404:
                text = f"the test event is not there {_SEEN_WITHIN:g} s after it was taken"
                return Check("seen", "failed", text, "look at what `sluice dev` prints")
            text = f"the collector cannot be asked for the test event: {error}"
            fix = f"set {TOKEN_VARIABLE}, or look at {collector.page}"
            return Check("seen", "warning", text, fix)
        state = str(job.get("state"))
        return Check("seen", "ok", f"the test event is there, as {state}: {collector.page}")


def _encoded(connection_id: str, task_id: str) -> bytes:
    now = time.time()
    at = moment(now)
    job = Job(
        external_id=task_id,
        name=NAME,
        state="completed",
        attempt=1,
        created_at=at,
        started_at=at,
        completed_at=at,
        extensions={"eventId": f"{secrets.randbits(63):016x}-0"},
    )
    return encode_job(connection_id, now, job)


def _posted(settings: Settings, body: bytes) -> Outcome:
    """What becomes of a body, tried once."""
    troubles: list[Outcome] = []
    deliverer = Deliverer(
        settings,
        native.load(detect.detect()),
        pause=lambda _: None,
        time_left=lambda: 0.0 if troubles else inf,
        on_trouble=troubles.append,
    )
    try:
        return deliverer.deliver(body, Patience(1, 0))
    finally:
        deliverer.close()


def _in_the_way(name: str, outcome: Outcome) -> Check:
    """What kept a body from being judged, or taken."""
    if outcome.verdict is Verdict.MISDIRECTED:
        fix = "check SLUICE_API_URL: a base URL, and events go to its /ingest"
        return Check(name, "failed", outcome.reason, fix)
    if outcome.verdict is not Verdict.LATER:
        return Check(name, "failed", outcome.reason, "look at the log of the API")
    if outcome.retry_after is not None:
        text = f"{outcome.reason}, for {outcome.retry_after:g} s more"
        return Check(name, "warning", text, "wait: events are kept, and sent then")
    fix = "try again later: events are kept for a while, and sent when it is over"
    return Check(name, "failed", outcome.reason, fix)
