"""A worker's MAIN process: where the capture is put into Celery, and taken out again.

Two bootsteps, both documented ways to extend a worker:

* a step of the worker starts the sender after the pool's first children were forked (a
  child is best forked while there is no second thread) and says `online`;
* a step of the consumer hooks the tasks' `Request` classes, after `Tasks` and before the
  first message.  It starts again, on the same instance, after every loss of the broker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from celery import bootsteps, signals

from sluice.capture.discarded import DiscardedMessages
from sluice.capture.heartbeat import Heartbeat
from sluice.capture.request import TaskObserver
from sluice.recorder import Recorder

#: How often a worker logs what Sluice has to say, in seconds.
_SPEAK_EVERY: Final = 5.0
_POOL_NAMES: Final = {"thread": "threads"}


class Process(Protocol):
    """What a worker's capture needs of the process it is in; the client has it."""

    def begin_worker(self, *, forks: bool) -> None:
        """This is a worker's MAIN.  `forks`: children that send tasks are forked from here."""

    def start_sender(self) -> None:
        """Begin to send, from the thread that asks; imports what it needs."""

    def at_every_turn(self, chore: Callable[[], None]) -> None:
        """Call this on a thread of the sender's, at least once per flush interval.

        Also while a request takes its time.
        """

    def keep_sign(self, sign: bytes | None) -> None:
        """Keep the worker's sign of life beside its ring; None: it has ended properly."""

    def flush_at_end(self) -> None:
        """The worker is done: deliver what there is, within the time for ending."""


class WorkerCapture:
    """Waits for a worker to be made in this process, and captures it."""

    def __init__(self, recorder: Recorder, observer: TaskObserver, process: Process) -> None:
        self.recorder: Final = recorder
        self.observer: Final = observer
        self.process: Final = process
        self.discarded: Final = DiscardedMessages(recorder, observer.now)
        self.heartbeat: Heartbeat | None = None

    def connect(self) -> None:
        """Listen from now on; a second time changes nothing."""
        for signal, receiver in self._receivers():
            signal.connect(receiver, weak=False, dispatch_uid=f"sluice.{signal.name}")

    def disconnect(self) -> None:
        """Listen no more."""
        for signal, _ in self._receivers():
            signal.disconnect(dispatch_uid=f"sluice.{signal.name}")

    def _receivers(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        return (
            (signals.worker_init, self._on_worker_init),
            (signals.task_received, self._on_received),
            (signals.task_unknown, self._on_unknown),
            (signals.task_rejected, self._on_rejected),
        )

    def _on_worker_init(self, sender: Any = None, **_: object) -> None:
        # `sender` is the worker, before its blueprints are made: the steps are just in time.
        def add_steps() -> None:
            sender.app.steps["worker"].add(_worker_step(self))
            sender.app.steps["consumer"].add(_consumer_step(self))

        _guarded(self, "the start of the worker", add_steps)

    def _on_received(self, request: Any = None, **_: object) -> None:
        self.observer.received(request)

    def _on_unknown(
        self,
        sender: Any = None,
        message: Any = None,
        name: Any = None,
        id: Any = None,  # noqa: A002  Celery's name
        **_: object,
    ) -> None:
        """A task that this worker does not know: Celery has thrown its message away."""
        self.discarded.unknown(sender, message, name, id)

    def _on_rejected(
        self, sender: Any = None, message: Any = None, exc: Any = None, **_: object
    ) -> None:
        """A message that is no task, or an invalid one: Celery has rejected it."""
        self.discarded.rejected(sender, message, exc)

    # Called by the steps.

    def worker_made(self, worker: Any, *, beat: bool) -> None:
        """The worker knows its pool and has not started it.  `beat`: there is one inside."""
        module = _pool_module(worker.pool_cls)
        self.observer.begin_worker(pool_has_processes=module == "prefork")
        self.heartbeat = Heartbeat(
            self.recorder,
            worker,
            _POOL_NAMES.get(module, module),
            keep_sign=self.process.keep_sign,
        )
        # A beat inside is a process in every pool. Celery ends it by a SIGTERM that it does not
        # handle: what it sent last can only leave from here.
        self.process.begin_worker(forks=beat or module == "prefork")
        self.process.at_every_turn(self.heartbeat.beat)

    def worker_started(self) -> None:
        """The pool runs."""
        self.process.start_sender()
        if self.heartbeat is not None:
            self.heartbeat.online()

    def consumer_started(self, consumer: Any) -> None:
        """The tasks' strategies exist, and no message has come yet."""
        if not isinstance(consumer.update_strategies, _HookingFirst):  # it may start again
            consumer.update_strategies = _HookingFirst(self, consumer)
        changed = self.observer.hook_tasks(consumer.app.tasks)
        dispatcher = consumer.event_dispatcher
        if dispatcher is None or not dispatcher.enabled:
            # Celery asks "is there an enabled dispatcher?" before it reports a success.
            consumer.event_dispatcher = SilentDispatcher()
            changed = True
        if changed:
            consumer.update_strategies()

    def consumer_ended(self) -> None:
        """The worker has stopped, its pool too: nothing more will come."""
        if self.heartbeat is not None:
            self.heartbeat.offline()
        self.process.flush_at_end()


def _pool_module(pool: Any) -> str:
    """The last part of the name of Celery's module that the pool, or a base of it, is from."""
    for base in getattr(pool, "__mro__", ()):
        package, _, module = base.__module__.rpartition(".")
        if package == "celery.concurrency":
            return str(module)
    return getattr(pool, "__name__", str(pool))


class _HookingFirst:
    """`consumer.update_strategies` for tasks that came since: `pool_restart` loads modules."""

    def __init__(self, capture: WorkerCapture, consumer: Any) -> None:
        self._capture = capture
        self._app = consumer.app
        self._update_strategies = consumer.update_strategies

    def __call__(self) -> None:
        _guarded(self._capture, "the hooks of late tasks", self._hook)
        self._update_strategies()

    def _hook(self) -> None:
        self._capture.observer.hook_tasks(self._app.tasks)


class SilentDispatcher:
    """An event dispatcher for a worker that sends no events to the broker: it sends none.

    For Celery it is there and enabled.  Only what Celery itself calls is here.
    """

    enabled = True
    connection = None

    def __init__(self) -> None:
        self.groups: set[str] = set()
        #: Empty: a real dispatcher that follows takes over what waits in the one before it.
        self._outbound_buffer: deque[object] = deque()
        self.on_enabled: set[Callable[[], None]] = set()
        self.on_disabled: set[Callable[[], None]] = set()

    def send(self, *_: object, **__: object) -> None:
        """Send nothing."""

    publish = extend_buffer = send

    def flush(self, *_: object, **__: object) -> None:
        """There is nothing to flush."""

    enable = disable = close = flush


def _guarded(capture: WorkerCapture, place: str, call: Callable[[], None]) -> None:
    """A fault of ours must not stop a worker from starting or stopping."""
    try:
        call()
    except Exception as error:  # noqa: BLE001  rule 1
        capture.recorder.notices.fault(place, error)
        capture.recorder.notices.log()


def _worker_step(capture: WorkerCapture) -> type[bootsteps.StartStopStep]:
    class SluiceWorkerStep(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def __init__(self, worker: Any, **kwargs: Any) -> None:
            super().__init__(worker, **kwargs)
            made = partial(capture.worker_made, worker, beat=bool(kwargs.get("beat")))
            _guarded(capture, "the start of the worker", made)

        def start(self, parent: Any) -> None:  # noqa: ARG002  Celery passes it
            _guarded(capture, "the start of the worker", capture.worker_started)

    return SluiceWorkerStep


def _consumer_step(capture: WorkerCapture) -> type[bootsteps.StartStopStep]:
    class SluiceConsumerStep(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def __init__(self, consumer: Any, **kwargs: Any) -> None:
            super().__init__(consumer, **kwargs)
            self._speaking = 0

        def start(self, parent: Any) -> None:
            watch = partial(capture.discarded.watch, parent)
            _guarded(capture, "the start of the consumer", watch)
            _guarded(capture, "the start of the consumer", lambda: capture.consumer_started(parent))
            self._speaking += 1
            self._speak(parent.timer, self._speaking)

        def stop(self, parent: Any) -> None:  # noqa: ARG002
            self._speaking += 1

        def shutdown(self, parent: Any) -> None:  # noqa: ARG002
            self._speaking += 1
            _guarded(capture, "the end of the consumer", capture.consumer_ended)
            capture.recorder.notices.log()

        def _speak(self, timer: Any, time: int) -> None:
            # Not `call_repeatedly`: in a green pool it gives a greenlet back, and to cancel
            # that one after its first run cancels nothing.
            if time == self._speaking:
                # Which it was at the start, unless no thread was to be had.
                timer.call_after(_SPEAK_EVERY, self._speak, (timer, time))
                _guarded(capture, "the start of the sender", capture.process.start_sender)
                capture.recorder.notices.log()

    return SluiceConsumerStep
