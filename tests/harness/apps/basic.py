"""A Celery app as a user would write it, with one task for each way that a task can go.

Variables: TEST_BROKER_URL, TEST_RESULT_URL (none: results are off), TEST_CONF (more Celery
settings, JSON), SLUICE_TEST_INIT ("0": no Sluice). Tasks are named `basic.<function>`, so that a
test can send them by name without importing this module.
"""

import json
import os
import signal
import sys
import time
from typing import Any

from celery import Celery, Task, chain, chord, group
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.signals import worker_init, worker_ready
from celery.utils.log import get_task_logger
from celery.worker.request import Request

from tests.harness.stacks import tell_at_usr1

app = Celery(
    "basic",
    broker=os.environ.get("TEST_BROKER_URL", "memory://"),
    backend=os.environ.get("TEST_RESULT_URL") or None,
)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_connection_timeout=2,
    broker_transport_options={"visibility_timeout": 3600},
    worker_hijack_root_logger=True,
    result_expires=600,
)
app.conf.update(json.loads(os.environ.get("TEST_CONF") or "{}"))

if os.environ.get("SLUICE_TEST_INIT") != "0":
    import sluice

    sluice.init()

logger = get_task_logger(__name__)
worker_ready.connect(tell_at_usr1)


# --- the plain ways -------------------------------------------------------------------------------


@app.task(name="basic.ok")
def ok(x: Any = None) -> Any:
    """Succeed with what came in."""
    return x


@app.task(name="basic.slow")
def slow(seconds: float) -> float:
    """Succeed after a sleep, which is a green one in a green pool."""
    time.sleep(seconds)
    return seconds


@app.task(name="basic.fail")
def fail(text: str = "it broke") -> None:
    """Fail with a text that the task chose."""
    raise ValueError(text)


@app.task(name="basic.ignored")
def ignored() -> None:
    """Raise Ignore: Celery tells of no terminal state."""
    raise Ignore


@app.task(name="basic.rejected", acks_late=True)
def rejected() -> None:
    """Raise Reject without requeue."""
    reason = "not for us"
    raise Reject(reason, requeue=False)


# --- retries --------------------------------------------------------------------------------------


@app.task(name="basic.retry_then_ok", bind=True, max_retries=5)
def retry_then_ok(self: Task, times: int = 1, countdown: float = 0.1) -> int:
    """Retry `times` times, then succeed with the number of attempts."""
    if self.request.retries < times:
        raise self.retry(countdown=countdown, exc=ConnectionError("not there yet"))
    return self.request.retries + 1


@app.task(name="basic.retry_forever", bind=True)
def retry_forever(
    self: Task, text: str | None = None, max_retries: int = 1, countdown: float = 0.1
) -> None:
    """Retry until Celery says that it is enough.

    With a `text` the last attempt fails with a ConnectionError of that text; without, with Celery's
    own MaxRetriesExceededError, which quotes the arguments of the task.
    """
    cause = ConnectionError(text) if text else None
    raise self.retry(countdown=countdown, max_retries=max_retries, exc=cause)


# --- time limits and death ------------------------------------------------------------------------


@app.task(name="basic.hard_limit", time_limit=1)
def hard_limit(seconds: float = 60.0) -> None:
    """Sleep past the hard time limit (kept by prefork and gevent)."""
    time.sleep(seconds)


@app.task(name="basic.soft_limit", soft_time_limit=1, time_limit=30)
def soft_limit(seconds: float = 60.0, *, survive: bool = False) -> str:
    """Sleep past the soft time limit (kept by prefork); fail with it, or clean up and succeed."""
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        if not survive:
            raise
        return "cleaned up"
    return "was not stopped"


@app.task(name="basic.die")
def die(sig: int = signal.SIGKILL) -> None:
    """Kill the process that runs the task: a child in prefork, elsewhere the whole worker."""
    os.kill(os.getpid(), sig)


@app.task(name="basic.leave")
def leave(code: int = 3) -> None:
    """Call sys.exit() in a task."""
    sys.exit(code)


# --- options --------------------------------------------------------------------------------------


@app.task(name="basic.acks_late", acks_late=True)
def acks_late(x: Any = None) -> Any:
    """Acknowledge after the run."""
    return x


@app.task(name="basic.no_result", ignore_result=True)
def no_result(x: Any = None) -> Any:
    """Return what nobody stores."""
    return x


@app.task(name="basic.rate_limited", rate_limit="10/s")
def rate_limited(x: Any = None) -> Any:
    """Pass through the worker's token bucket."""
    return x


# --- tasks that send tasks ------------------------------------------------------------------------


@app.task(name="basic.sends_others")
def sends_others(n: int = 1, how: str = "delay") -> list[str]:
    """Send `n` times `ok`, by delay(), apply_async() or send_task(), and return their ids."""
    send = {
        "delay": ok.delay,
        "apply_async": lambda i: ok.apply_async((i,)),
        "send_task": lambda i: app.send_task("basic.ok", (i,)),
    }[how]
    return [send(i).id for i in range(n)]


@app.task(name="basic.canvas")
def canvas(kind: str = "chain") -> str:
    """Run a chain, a group or a chord of `ok`; a chord needs a Redis result backend."""
    signatures = [ok.si(i) for i in range(3)]
    work = {
        "chain": lambda: chain(signatures),
        "group": lambda: group(signatures),
        "chord": lambda: chord(signatures, no_result.si("body")),
    }[kind]()
    return work.apply_async().id


# --- what users put in Celery's hooks -------------------------------------------------------------


class LoggingTask(Task):
    """A user's task base, with the callbacks people override."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        logger.info("LoggingTask.on_success %s", task_id)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        logger.info("LoggingTask.on_failure %s", task_id)


class LoggingRequest(Request):
    """A user's request class: the hook that Sluice uses as well."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        logger.info("LoggingRequest.on_accepted %s", self.id)
        super().on_accepted(pid, time_accepted)


class RequestTask(Task):
    """A user's task base that brings a request class."""

    Request = LoggingRequest


@app.task(name="basic.custom_base", base=LoggingTask)
def custom_base(x: Any = None, *, broken: bool = False) -> Any:
    """Run with a custom Task base."""
    if broken:
        text = "it broke"
        raise ValueError(text)
    return x


@app.task(name="basic.custom_request", base=RequestTask)
def custom_request(x: Any = None) -> Any:
    """Run with a custom Task.Request."""
    return x


@worker_init.connect(weak=False)
def register_late(**_: Any) -> None:
    """Register a task long after `sluice.init()`: the worker exists, its pool does not yet."""

    @app.task(name="basic.late")
    def late(x: Any = None) -> Any:
        return x
