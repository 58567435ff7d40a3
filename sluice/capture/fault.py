"""What went wrong in a task: message, class and traceback, fit to be sent."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, Protocol

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Retry

from sluice import scrub
from sluice.arguments import Arguments

#: The class in the repr of an exception; other reprs may begin with anything.
_CLASS_NAME: Final = re.compile(r"[A-Za-z_][\w.]*(?=\()")
#: What a message's headers and its `Request` hold of Celery's own (5.3 to 5.7); the rest, and
#: what the task is stamped with, is what somebody has sent along.
_OF_CELERY: Final = frozenset(
    "lang task id shadow eta expires group group_index retries timelimit root_id parent_id"
    " argsrepr kwargsrepr origin ignore_result replaced_task_nesting stamped_headers"
    " properties reply_to correlation_id hostname delivery_info args kwargs"
    " compression callbacks errbacks chain chord".split()
)


class Fault(NamedTuple):
    """Texts about one fault, without the task's arguments; None where there is nothing."""

    error: str | None
    class_name: str | None
    stacktrace: str | None


class Failed(Protocol):
    """What is used of a request that failed."""

    request_dict: dict[str, Any]
    #: The `ExceptionInfo`, if Celery had one.
    sluice_failure: Any
    #: The hard time limit that it ran into, in seconds.
    sluice_time_limit: float | None


def fault_of(request: Failed, fields: dict[str, Any], *, tracebacks: bool) -> Fault:
    """The fault that an event with these fields tells of."""
    text: str | None = fields.get("exception")
    trace = fields.get("traceback")
    named = _CLASS_NAME.match(text) if text else None
    name = named[0] if named else None
    exception = exception_of(request)
    # Of a prefork child's SystemExit Celery makes a WorkerLostError, which its event tells of.
    if isinstance(exception, Exception):
        trace = trace or getattr(request.sluice_failure, "traceback", None)
        if isinstance(exception, Retry) and isinstance(exception.exc, BaseException):
            exception = exception.exc
        # What cannot be pickled comes out of a child in a wrapper that knows its name.
        name = getattr(exception, "exc_cls_name", None) or type(exception).__name__
        try:
            text = str(exception) or name
        except Exception:  # noqa: BLE001  a __str__ of the user's
            text = name
    elif request.sluice_time_limit is not None:
        name = "TimeLimitExceeded"
        text = f"{name}({request.sluice_time_limit},)"
    arguments = arguments_of(request)
    error = scrub.error_text(text, arguments) if text else None
    if not tracebacks or not isinstance(trace, str):
        return Fault(error, name, None)
    return Fault(error, name, scrub.stacktrace(trace, arguments))


def exception_of(request: Failed) -> BaseException | None:
    """The exception itself, which the events of Celery only have as a text."""
    exception = getattr(request.sluice_failure, "exception", None)
    if isinstance(exception, ExceptionWithTraceback):
        exception = exception.exc
    return exception if isinstance(exception, BaseException) else None


def arguments_of(request: Failed) -> Arguments:
    """What must not be in a text about this request: its arguments, and headers of the user's."""
    message = request.request_dict
    headers = [value for name, value in message.items() if name not in _OF_CELERY]
    return Arguments(
        [message.get("args"), headers],
        message.get("kwargs"),
        message.get("argsrepr"),
        message.get("kwargsrepr"),
    )
