"""Tasks that are given what must stay private, and let it slip into every text they can.

What the logger "sluice" says goes into the file SLUICE_LOG as well, from every process.
"""

import json
import logging
import os
import threading
import time
from typing import Any
from urllib.parse import quote

from celery import Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from tests.harness.apps.basic import app

if "SLUICE_LOG" in os.environ:
    _log = logging.getLogger("sluice")
    _log.setLevel(logging.DEBUG)
    _log.addHandler(logging.FileHandler(os.environ["SLUICE_LOG"]))


class HoldsALock(Exception):
    """Cannot be pickled, so Celery makes another exception out of its text."""

    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())


class Declined(Exception):
    """Has a text of its own making."""

    def __init__(self, card: Any) -> None:
        super().__init__()
        self.card = card

    def __str__(self) -> str:
        return f"card {self.card!r} was declined"


#: None of which is an argument of a task's.
SECRETS = (
    "no answer from https://worker:CANARY-password@db.example/rows?api_key=CANARY-key with"
    " password=CANARY-word, {'client_secret': 'CANARY-secret', \"token\": \"CANARY-token\"},"
    " card 4111 1111 1111 1111, Authorization: Bearer CANARY.bearer-token-of-some-length"
)


def _raise(how: str, x: Any, more: dict[str, Any]) -> Any:  # noqa: PLR0912
    match how:
        case "return":
            return {"the result": x, "more": more, "made up": "CANARY-result"}
        case "quoted":
            raise ValueError(f"what is {x}?")
        case "KeyError":
            raise KeyError(x)
        case "look-up":
            return {}[x]
        case "int()":
            return int(x)
        case "float()":
            return float(x)
        case "repr of all":
            raise ValueError(f"called with {(how, x)} and {more}")
        case "nested":
            raise LookupError(more["order"]["lines"][0]["customer"])
        case "nested number":
            raise ValueError(f"no account {more['order']['account']}")
        case "nested key":
            raise KeyError(next(iter(more["by customer"])))
        case "own text":
            raise Declined(x)
        case "chained":
            try:
                return {}[x]
            except KeyError as error:
                raise RuntimeError("nothing to see here") from error
        case "group":
            raise ExceptionGroup("several", [KeyError(x), ValueError(f"{more}")])
        case "note":
            error = ValueError("nothing to see here")
            error.add_note(f"it was {x}")
            raise error
        case "unpicklable":
            raise HoldsALock(x)
        case "assert":
            assert x == more, f"{x} is not {more}"
        case "Reject":
            raise Reject(x, requeue=False)
        case "Ignore":
            raise Ignore(x)
        case "unencodable result":
            return {x}
        case "JSON":
            raise ValueError(json.dumps([x, more]))
        case "URL":
            raise ValueError(f"404 for https://partner.example/find?q={quote(x)}")
        case "secrets":
            raise ConnectionError(SECRETS)
        case "many":
            raise ValueError(f"no such customer: {more['many'][-1]}")
    raise AssertionError(how)


@app.task(name="private.use")
def use(how: str, x: Any, more: dict[str, Any] | None = None) -> Any:
    """Return it, or fail with it in the text."""
    return _raise(how, x, more or {})


@app.task(name="private.again", bind=True, max_retries=1)
def again(self: Task, how: str, x: Any, more: dict[str, Any] | None = None) -> Any:
    """Retry once."""
    if how == "then ok" and self.request.retries:
        return x
    cause = None if how == "exceed" else ValueError(f"try {x} again")
    raise self.retry(countdown=0, exc=cause)


@app.task(name="private.sleep", time_limit=1)
def sleep(x: Any, more: dict[str, Any] | None = None) -> Any:
    """Be ended by the hard time limit."""
    time.sleep(60)


@app.task(name="private.sleep_softly", soft_time_limit=1)
def sleep_softly(x: Any, more: dict[str, Any] | None = None) -> Any:
    """Be ended by the soft time limit, and say of whom."""
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded as limit:
        raise SoftTimeLimitExceeded(f"no time for {x}") from limit


@app.task(name="private.send")
def send(x: Any, more: dict[str, Any] | None = None) -> Any:
    """Send another task with it, and a chain in which a result becomes an argument."""
    use.apply_async(("quoted", x), {"more": more}, headers={"x-tenant": x})
    (use.s("return", x) | use.si("KeyError", x)).apply_async()
    return x
