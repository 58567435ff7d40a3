"""Messages that never become a request, and that Celery throws away: each ends a task's life.

Celery signals an unknown task and a message that is no valid task.  It says nothing of one whose
body cannot be read (it logs that, and acknowledges it), and nothing of an unknown task when the
result backend is away, which raises before the signal (read: celery/worker/consumer/consumer.py,
5.3 to 5.7).  Both go through methods of the consumer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from sluice import scrub
from sluice.events import (
    ID_LIMIT,
    NAME_LIMIT,
    STATE_OF,
    Job,
    attempt_number,
    cut,
    moment,
    queue_name,
)
from sluice.events import task_id as as_id
from sluice.recorder import Recorder


class DiscardedMessages:
    """Tells of them; nothing here raises into Celery."""

    def __init__(self, recorder: Recorder, clock: Callable[[], float]) -> None:
        self._recorder = recorder
        self._clock = clock

    def watch(self, consumer: Any) -> None:
        """Hear of what Celery does not signal, from now on; a second time changes nothing."""
        if not hasattr(consumer.on_decode_error, "sluice_tells"):
            consumer.on_decode_error = self._telling_of_unreadable(consumer)
            consumer.on_unknown_task = self._telling_of_unknown(consumer)
        if consumer.task_consumer is not None:  # which is made anew with each connection
            consumer.task_consumer.on_decode_error = consumer.on_decode_error

    def _telling_of_unreadable(self, consumer: Any) -> Callable[..., Any]:
        on_decode_error = consumer.on_decode_error

        @wraps(on_decode_error)
        def on_decode_error_told(message: Any, exc: Any) -> Any:
            self.unreadable(consumer, message, exc)
            return on_decode_error(message, exc)

        on_decode_error_told.sluice_tells = True  # type: ignore[attr-defined]
        return on_decode_error_told

    def _telling_of_unknown(self, consumer: Any) -> Callable[..., Any]:
        on_unknown_task = consumer.on_unknown_task

        @wraps(on_unknown_task)
        def on_unknown_task_told(body: Any, message: Any, exc: Any) -> Any:
            try:
                return on_unknown_task(body, message, exc)
            except Exception:  # before the signal, which passes none on
                headers = _headers(message)
                self.unknown(consumer, message, headers.get("task"), headers.get("id"))
                raise

        return on_unknown_task_told

    def unknown(self, consumer: Any, message: Any, name: object, task_id: object) -> None:
        """A task that this worker does not know."""
        error = f"NotRegistered: {name}"
        self._tell("task-unknown", consumer, message, task_id=task_id, name=name, error=error)

    def rejected(self, consumer: Any, message: Any, exc: BaseException | None) -> None:
        """A message that is no task, or an invalid one."""
        # The exception's text may quote the message, which may quote arguments.
        error = f"{type(exc).__name__}: the message was not a valid task" if exc else None
        self._tell("task-rejected", consumer, message, error=error)

    def unreadable(self, consumer: Any, message: Any, exc: BaseException) -> None:
        """A message whose body cannot be decoded."""
        error = f"{type(exc).__name__}: the message could not be decoded"
        self._tell("task-rejected", consumer, message, error=error)

    def _tell(
        self,
        celery_event: str,
        consumer: Any,
        message: Any,
        *,
        error: str | None,
        task_id: object = None,
        name: object = None,
    ) -> None:
        try:
            headers = _headers(message)
            found = task_id or headers.get("id") or (message.properties or {}).get("correlation_id")
            # Nothing to tell its life by?  The delivery tag is all that names it.
            external_id = cut(str(found or f"unidentified-{message.delivery_tag}"), ID_LIMIT)
            where = message.delivery_info or {}
            parent_id = as_id(headers.get("parent_id"))
            now = self._clock()
            self._recorder.job(
                now,
                Job(
                    external_id=external_id,
                    name=cut(str(name or headers.get("task") or "unknown"), NAME_LIMIT),
                    state=STATE_OF[celery_event],
                    queue=queue_name(where.get("routing_key")),
                    previous_state="queued",
                    worker_id=cut(str(consumer.hostname), ID_LIMIT),
                    attempt=attempt_number(headers.get("retries")),
                    error=scrub.error_text(error) if error else None,
                    completed_at=moment(now),
                    # Celery names a task that retries itself as the parent of the next attempt.
                    parent_id=parent_id if parent_id != external_id else None,
                    root_id=as_id(headers.get("root_id")),
                    extensions={"celeryEvent": celery_event},
                ),
            )
        except Exception as exception:  # noqa: BLE001  rule 1
            self._recorder.notices.fault(f"capture of {celery_event}", exception)


def _headers(message: Any) -> dict[str, Any]:
    return message.headers if isinstance(message.headers, dict) else {}
