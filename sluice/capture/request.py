"""The life of a task as the worker's MAIN process sees it: Celery's `Task.Request` hook.

In every pool Celery calls the methods of a `Request` in MAIN when a task is accepted, done,
retried, revoked or rejected, and `send_event` is the one that all of these go through,
whether or not the worker sends events to the broker (read and run: celery/worker/request.py,
5.3 to 5.7).  `create_request_cls` puts a subclass of its own in front, so other methods,
`on_success` above all, cannot be relied on.

One `Request` is one delivery of a message, which makes it the right place to remember that
it has ended: Celery reports a hard time limit twice, and a killed greenlet "succeeds"
before or after it is revoked.  A task that is delivered again is a new `Request`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeAlias

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state

from sluice import scrub
from sluice.capture.delivered import Delivery, begin, is_next
from sluice.capture.fault import Fault, arguments_of, exception_of, fault_of
from sluice.capture.hook import RequestHook, hooked
from sluice.events import (
    FINAL_STATES,
    STATE_OF,
    JobState,
    Scalar,
    moment,
    utc,
)
from sluice.recorder import Recorder

if TYPE_CHECKING:
    from celery.app.task import Task

#: Fields of Celery's events that are read below; what else comes is a future Celery's.
_KNOWN_FIELDS: Final = frozenset(
    "uuid result exception traceback runtime terminated signum expired requeue".split()
)
_TROUBLED: Final = frozenset(("failed", "retrying"))
_COMPLETED: Final = FINAL_STATES - {"retrying"}
_MOST_OVERTAKING: Final = 1000
_FLAGGED: Final = frozenset(("task-revoked", "task-rejected"))
#: After these comes another delivery, which Celery publishes before it tells of them.
_FOLLOWED: Final = frozenset(("task-retried", "task-replaced"))
_FLAGS: Final = ("terminated", "signum", "expired", "requeue")


P = ParamSpec("P")
_Step: TypeAlias = "Callable[Concatenate[TaskObserver, P], None]"

#: What Celery's cancelling makes of a task, which was told of before, and what is no failure.
_OF_A_COLD_END: Final = (Terminated, SystemExit, KeyboardInterrupt, Retry, Reject)

#: From `celery.app.task.Task.replace`, 5.3 to 5.7.
_REPLACED: Final = "Replaced by new task"


def _comes_again(request: Delivery) -> bool:
    """Whether the broker still has its message: what is not acknowledged is delivered again."""
    return bool(request.task.acks_late) and not request.acknowledged


def _is_replaced(exception: Ignore) -> bool:
    """Whether `Task.replace` has sent another task under the same id, and says so like this."""
    said = exception.args[0] if exception.args else None
    return type(said) is str and said == _REPLACED  # what else it is may compare as it likes


def _guarded(place: str) -> Callable[[_Step[P]], _Step[P]]:
    """For what Celery's handling of an end calls: an exception can have code of its own."""

    def guard(step: _Step[P]) -> _Step[P]:
        @wraps(step)
        def guarded(self: TaskObserver, /, *args: P.args, **kwargs: P.kwargs) -> None:
            try:
                step(self, *args, **kwargs)
            except Exception as error:  # noqa: BLE001  rule 1
                self.fault(place, error)

        return guarded

    return guard


class TaskObserver:
    """Turns the callbacks of requests into job events."""

    def __init__(
        self, recorder: Recorder, *, tracebacks: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._recorder = recorder
        self._tracebacks = tracebacks
        self._clock = clock
        #: Prefork: a request's `worker_pid` is a process; elsewhere it names a greenlet.
        self.pool_has_processes = False
        self._pid = 0
        self.hooked_classes: dict[type, type] = {}
        #: Attempts that were received before the one before them was reported.  When that one
        #: ends, Celery forgets this one instead (`state.task_ready` goes by the id).
        self._overtook: dict[str, Delivery] = {}

    def begin_worker(self, *, pool_has_processes: bool) -> None:
        """This process is a worker's MAIN, with a pool of this kind."""
        self.pool_has_processes = pool_has_processes
        self._pid = os.getpid()

    def fault(self, place: str, error: Exception) -> None:
        """Count a fault of ours, and have it logged."""
        self._recorder.notices.fault(place, error)

    def now(self) -> float:
        """Unix time in seconds."""
        return self._clock()

    def hook_tasks(self, tasks: dict[str, Task]) -> bool:
        """See that each task makes hooked requests.  True if any did not."""
        changed = False
        for task in list(tasks.values()):
            changed |= self._is_newly_hooked(task)
        return changed

    def _is_newly_hooked(self, task: Task) -> bool:
        try:
            base = symbol_by_name(task.Request)
            if issubclass(base, RequestHook):
                if base.sluice_observer is self:
                    return False
                base = base.sluice_base  # another observer's, of an app that was here before
            task.Request = hooked(base, self)
        except Exception as error:  # noqa: BLE001  a `Request` that is a property: that task's alone
            self.fault("the hook of a task", error)
            return False
        return True

    def received(self, request: Delivery) -> None:
        """A message arrived and became a request."""
        try:
            now = self._clock()
            earlier = worker_state.requests.get(request.id)
            if earlier is None and self._overtook:
                earlier = self._overtook.get(request.id)
            if earlier is not None and is_next(request, earlier):
                # Celery publishes a retry before it reports it: take this as the latest
                # moment at which the earlier attempt can have ended.
                earlier.sluice_next_received = now
                self._note_overtaking(request)
            eta = request.eta
            later = eta is not None and eta.timestamp() > now
            extensions: dict[str, Scalar] = {"celeryEvent": "task-received"}
            if not later:
                self._report(request, now, "queued", extensions)
                return
            begin(request).scheduled_for = utc(eta)
            self._report(request, now, "scheduled", extensions)
        except Exception as error:  # noqa: BLE001  rule 1
            self.fault("capture of task-received", error)

    def _note_overtaking(self, request: Delivery) -> None:
        overtook = self._overtook
        if len(overtook) >= _MOST_OVERTAKING:  # ends that were never told: a lost broker's
            overtook.clear()
        overtook[request.id] = request

    def observe(self, request: Delivery, celery_event: str, fields: dict[str, Any]) -> None:
        """Celery called `send_event`."""
        try:
            state = STATE_OF.get(celery_event) or request.sluice_state or "unknown"
            if state in FINAL_STATES and not self._ends(request, celery_event, fields):
                return
            if celery_event == "task-rejected" and fields.get("requeue"):
                state = "retrying"
            elif celery_event == "task-cancelled" and _comes_again(request):
                state = "retrying"  # a cold end, or a lost broker, which has it still
            extensions: dict[str, Scalar] = {"celeryEvent": celery_event}
            fault = None
            if state in _TROUBLED:
                fault = self._fault_of(request, celery_event, fields)
                extensions["exceptionClass"] = fault.class_name
            at = self._clock()
            if fields:
                self._take_fields(request, celery_event, fields, extensions)
                at = self._time_of(request, celery_event, at, extensions)
            elif celery_event == "task-started":
                at = request.time_start or at
            else:
                at = self._time_of(request, celery_event, at, extensions)
            self._report(request, at, state, extensions, fault)
            if self._overtook and state in FINAL_STATES:
                self._forget_overtaking(request)
        except Exception as error:  # noqa: BLE001  rule 1
            self.fault(f"capture of {celery_event}", error)

    def _forget_overtaking(self, request: Delivery) -> None:
        """It has ended, and was not overtaken itself."""
        if self._overtook.get(request.id) is request:
            del self._overtook[request.id]

    def _fault_of(self, request: Delivery, celery_event: str, fields: dict[str, Any]) -> Fault:
        """What went wrong; without a text where that fails, which must not cost the end."""
        try:
            return fault_of(request, fields, tracebacks=self._tracebacks)
        except Exception as error:  # noqa: BLE001  rule 1
            self.fault(f"the error text of {celery_event}", error)
            return Fault(None, None, None)

    @_guarded("capture of a silent end")
    def after_failure(self, request: Delivery) -> None:
        """What ends a task without any event of Celery's; we report it."""
        exception = exception_of(request)
        if isinstance(exception, Ignore):
            replaced = _is_replaced(exception)
            self.observe(request, "task-replaced" if replaced else "task-ignored", {})
        elif isinstance(exception, Reject) and request.acknowledged:
            # Before the task ran: Celery does not tell then, and nothing comes back.
            self.observe(request, "task-rejected", {"requeue": False})
        elif (
            worker_state.should_terminate
            and not isinstance(exception, _OF_A_COLD_END)
            and not _comes_again(request)
        ):
            # A task that failed by itself while others are cancelled for a cold end: its result
            # says so, and no event of Celery's does.
            self.observe(request, "task-failed", {})

    @_guarded("capture of task-failed")
    def failure_broken_off(self, request: Delivery) -> None:
        """Celery raised before it told of it: a MemoryError does that, or a lost backend."""
        exception = exception_of(request)
        if isinstance(exception, Retry):
            self.observe(request, "task-retried", {})
        elif not isinstance(exception, (Ignore, Reject)):
            self.observe(request, "task-failed", {})

    @_guarded("capture of task-failed")
    def success_broken_off(self, request: Delivery, result: object) -> None:
        """Celery raised instead of telling how it ended."""
        found = result[1] if isinstance(result, tuple) and len(result) > 1 else result
        if isinstance(found, ExceptionInfo):
            request.sluice_failure = found
            self.observe(request, "task-failed", {"exception": repr(exception_of(request))})

    @_guarded("capture of a time limit")
    def before_timeout(self, request: Delivery) -> None:
        """Before Celery tells of a hard limit as a failure: does the broker get it back?"""
        # From 5.7; before, what follows in a prefork pool decides (see `after_timeout`).
        if not getattr(request.task, "acks_on_timeout", True) and _comes_again(request):
            self.observe(request, "task-rejected", {"requeue": True})

    @_guarded("capture of a time limit")
    def after_timeout(self, request: Delivery) -> None:
        """Celery has dealt with a hard limit, and may have told nothing (before 5.7)."""
        # In a prefork pool the child was killed for it, which is a failure of its own: that
        # acknowledges a message that is still open, or gives it back.
        if self.pool_has_processes and _comes_again(request):
            return
        if not worker_state.should_terminate:
            self.observe(request, "task-failed", {})

    @staticmethod
    def _ends(request: Delivery, celery_event: str, fields: dict[str, Any]) -> bool:
        """Whether the attempt ends with this event, and not with another one."""
        if request.sluice_state in FINAL_STATES:
            return False
        # A killed greenlet "succeeds" without a runtime: `task-revoked` comes before or after.
        # So does a task whose child died after it had stored its success, which is a failure's,
        # and one that is not run because its result is there (`worker_deduplicate_...`).
        return (
            celery_event != "task-succeeded"
            or fields.get("runtime") is not None
            or request.sluice_failure is not None
            or request.sluice_killed is False
        )

    @staticmethod
    def _take_fields(
        request: Delivery, celery_event: str, fields: dict[str, Any], extensions: dict[str, Scalar]
    ) -> None:
        """What an event's fields add to its extensions."""
        runtime = fields.get("runtime")
        if runtime is not None:
            extensions["runtime"] = runtime
        if celery_event in _FLAGGED:
            for flag in _FLAGS:
                if (value := fields.get(flag)) is not None:
                    extensions[flag] = value if isinstance(value, int) else str(value)
        if not _KNOWN_FIELDS.issuperset(fields):
            extensions |= scrub.unknown_fields(fields, _KNOWN_FIELDS, arguments_of(request))

    @staticmethod
    def _time_of(
        request: Delivery, celery_event: str, now: float, extensions: dict[str, Scalar]
    ) -> float:
        """When it ended, by the task's own clocks: results wait while a broker is down."""
        if celery_event in _FOLLOWED and request.sluice_next_received is not None:
            return request.sluice_next_received
        started, runtime = request.time_start, extensions.get("runtime")
        if started is not None and isinstance(runtime, (float, int)):
            return min(now, started + runtime)
        return now

    def _report(
        self,
        request: Delivery,
        at: float,
        state: JobState,
        extensions: dict[str, Scalar],
        fault: Fault | None = None,
    ) -> None:
        if at < request.sluice_last:  # noqa: PLR1730  max() is a call, here for every event
            at = request.sluice_last
        job = request.sluice_job
        if job is None:
            job = begin(request)
        if request.sluice_where is not None:
            extensions |= request.sluice_where
        started = request.time_start
        if started is not None:
            extensions["pid"] = request.worker_pid if self.pool_has_processes else self._pid
            if job.started_at is None:
                # Like `at`: Celery works it out from two clocks in MAIN, and a pause between
                # them makes it earlier than what was told before.
                job.started_at = moment(max(started, request.sluice_last))
        job.previous_state = request.sluice_state
        job.state = state
        job.extensions = extensions
        if state in _COMPLETED:
            job.completed_at = moment(at)
        if fault is not None:
            job.error = fault.error
            job.stacktrace = fault.stacktrace
        self._recorder.job(at, job)
        request.sluice_state = state
        request.sluice_last = at
