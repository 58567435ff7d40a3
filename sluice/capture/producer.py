"""`sent`: in every process that publishes a task.

That is a script, a web server, beat, a worker, or a prefork child whose task sends others.

The time is taken in `before_task_publish`: a quick worker has received the task before
`after_task_publish` runs.  Nothing is put into the message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded
from celery import signals
from celery._state import get_current_app

from sluice.capture.limits import LimitGuard
from sluice.events import (
    EXTENSION_LIMIT,
    NAME_LIMIT,
    Job,
    Scalar,
    attempt_number,
    cut,
    exchange_name,
    moment,
    queue_name,
    retry_limit,
    task_id,
    utc,
)
from sluice.recorder import Recorder

#: Publications that were begun and never finished (the broker refused them) are forgotten
#: when there are this many.
_MOST_BEGUN: Final = 1000


def free_the_signals() -> None:
    """See that a publication never waits for another one's look at its receivers.

    Celery holds a lock while it looks, once there is a receiver: for ever, if a signal handler or
    a finaliser publishes meanwhile in the same thread, or if the process forks meanwhile in
    another one and the child publishes.
    """
    for signal in (signals.before_task_publish, signals.after_task_publish):
        signal.lock = threading.RLock()


class ProducerCapture:
    """Connects to Celery's publishing signals."""

    def __init__(self, recorder: Recorder, *, clock: Callable[[], float] = time.time) -> None:
        self._recorder = recorder
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._limits = LimitGuard(ProducerCapture.before_publish, ProducerCapture.after_publish)

    def connect(self) -> None:
        """Listen from now on; a second time changes nothing."""
        free_the_signals()
        signals.before_task_publish.connect(
            self.before_publish, weak=False, dispatch_uid="sluice.before_task_publish"
        )
        signals.after_task_publish.connect(
            self.after_publish, weak=False, dispatch_uid="sluice.after_task_publish"
        )

    def disconnect(self) -> None:
        """Listen no more."""
        signals.before_task_publish.disconnect(dispatch_uid="sluice.before_task_publish")
        signals.after_task_publish.disconnect(dispatch_uid="sluice.after_task_publish")

    def before_publish(self, headers: Any = None, body: Any = None, **_: object) -> None:
        """Take the time."""
        try:
            self._limits.stand()
            if len(self._begun) >= _MOST_BEGUN:
                self._begun.clear()
            self._begun[_message(headers, body)["id"]] = self._clock()
        except SoftTimeLimitExceeded:
            raise  # it is the task's, and nothing kept it out
        except Exception as error:  # noqa: BLE001  rule 1
            self._recorder.notices.fault("capture of task-sent", error)

    def after_publish(
        self,
        sender: Any = None,
        headers: Any = None,
        body: Any = None,
        exchange: Any = None,
        routing_key: Any = None,
        **_: object,
    ) -> None:
        """The broker has taken the message."""
        try:
            message = _message(headers, body)
            at = self._begun.pop(message["id"], None) or self._clock()
            self._recorder.job(at, _sent(message, at, sender, exchange, routing_key))
            if self._recorder.notices.pending:
                self._recorder.notices.log()
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # noqa: BLE001  rule 1
            self._recorder.notices.fault("capture of task-sent", error)


def _message(headers: Any, body: Any) -> dict[str, Any]:
    """Where id, retries and eta are: in the headers of protocol 2, the body of protocol 1."""
    found: dict[str, Any] = headers if headers and "task" in headers else body
    return found


def _sent(
    message: dict[str, Any], at: float, name: object, exchange: object, routing_key: object
) -> Job:
    extensions: dict[str, Scalar] = {"celeryEvent": "task-sent"}
    if exchange:
        extensions["exchange"] = cut(exchange_name(exchange), EXTENSION_LIMIT)
    task_name = str(name or message.get("task") or "unknown")
    eta = message.get("eta")
    # Celery names a task that retries itself as the parent of the next attempt.
    is_own_parent = message.get("parent_id") == message["id"]
    return Job(
        external_id=task_id(message["id"]) or "unknown",
        name=cut(str(message.get("shadow") or task_name), NAME_LIMIT),
        state="queued",
        queue=queue_name(routing_key),
        attempt=attempt_number(message.get("retries")),
        max_retries=_max_retries(task_name),
        created_at=moment(at),
        scheduled_for=utc(datetime.fromisoformat(eta)) if eta else None,
        parent_id=task_id(message.get("parent_id")) if not is_own_parent else None,
        root_id=task_id(message.get("root_id")),
        extensions=extensions,
    )


def _max_retries(name: str) -> int | None:
    """The task's limit where the task is known here.  Never makes an app load its tasks."""
    app = get_current_app()
    if not app.finalized:
        return None
    return retry_limit(getattr(app.tasks.get(name), "max_retries", None))
