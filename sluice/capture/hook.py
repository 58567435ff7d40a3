"""What comes before Celery's `Request` in the classes that requests are made of.

`create_request_cls` puts a subclass of its own in front, so methods that it replaces,
`on_success` above all, cannot be relied on; `send_event` is the one that all go through.
Nothing is decided here: see :class:`sluice.capture.request.TaskObserver`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from sluice.events import Job, JobState, Scalar

if TYPE_CHECKING:
    from sluice.capture.request import TaskObserver


class RequestHook:
    """Comes before Celery's (or the user's) `Request` in the classes that `hooked` makes."""

    sluice_observer: TaskObserver
    sluice_base: type
    #: The last state that was reported, and its time.
    sluice_state: JobState | None = None
    sluice_last = 0.0
    #: The `ExceptionInfo` while, and after, a failure is handled.
    sluice_failure: Any = None
    #: The hard time limit that it ran into, in seconds.
    sluice_time_limit: float | None = None
    #: Whether what Celery takes for its success is what a killed greenlet leaves behind.
    sluice_killed: bool | None = None
    #: What the last event said.
    sluice_job: Job | None = None
    #: What every event says of where the message came from, in its extensions.
    sluice_where: dict[str, Scalar] | None = None
    #: When the next attempt of this task arrived here, if it was quicker than our `retried`.
    sluice_next_received: float | None = None

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002  Celery's name
        """Report it, then let Celery do what it would have done."""
        self.sluice_observer.observe(self, type, fields)  # type: ignore[arg-type]
        super().send_event(type, **fields)  # type: ignore[misc]

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """Remember a hard limit: with gevent the event has lost the exception's name.

        Before Celery 5.7 there is no event of it at all, unless a process is killed for it.
        """
        if soft:
            return super().on_timeout(soft, timeout)  # type: ignore[misc]
        self.sluice_time_limit = timeout
        self.sluice_observer.before_timeout(self)  # type: ignore[arg-type]
        try:
            return super().on_timeout(soft, timeout)  # type: ignore[misc]
        finally:  # also where the result backend is away, and Celery raises
            self.sluice_observer.after_timeout(self)  # type: ignore[arg-type]

    def reject(self, requeue: bool = False) -> Any:
        """Report it first: once the broker has the message back, it can be here again."""
        if not self.acknowledged:  # type: ignore[attr-defined]
            self.sluice_observer.observe(
                self,  # type: ignore[arg-type]
                "task-rejected",
                {"requeue": requeue},
            )
        return super().reject(requeue)  # type: ignore[misc]

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Remember the real exception: the event only has its text."""
        self.sluice_failure = exc_info
        try:
            return super().on_failure(exc_info, *args, **kwargs)  # type: ignore[misc]
        except Exception:
            self.sluice_observer.failure_broken_off(self)  # type: ignore[arg-type]
            raise
        finally:
            self.sluice_observer.after_failure(self)  # type: ignore[arg-type]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Celery's `create_request_cls` puts a class in front: its `on_success` is heard here."""
        super().__init_subclass__(**kwargs)
        if "on_success" in vars(cls):
            cls.on_success = _heard(cls.on_success)  # type: ignore[attr-defined]


def _heard(on_success: Callable[..., Any]) -> Callable[..., Any]:
    """It gets what a task raised that is no `Exception`, `sys.exit()` say, and breaks on it.

    And from a killed greenlet, (False, None, None), where a task that has run to its end gives 0:
    `killable_target` in celery/concurrency/gevent.py and eventlet.py, 5.3 to 5.7.
    """

    @wraps(on_success)
    def on_success_told(self: Any, result: Any, **kwargs: Any) -> Any:
        self.sluice_killed = type(result) is tuple and bool(result) and result[0] is False
        try:
            return on_success(self, result, **kwargs)
        except BaseException:
            self.sluice_observer.success_broken_off(self, result)
            raise

    return on_success_told


def hooked(base: type, observer: TaskObserver) -> type:
    """`base`, a `Request` class, with the hook in front.  The same class for the same base."""
    made = observer.hooked_classes.get(base)
    if made is None:
        made = type(
            base.__name__, (RequestHook, base), {"sluice_observer": observer, "sluice_base": base}
        )
        observer.hooked_classes[base] = made
    return made
