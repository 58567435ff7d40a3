"""A soft time limit that comes while Celery tells us of a publication still stops the task.

A limit is an exception that the pool's handler of SIGUSR1 raises in a prefork child, wherever
its task is.  Raised in a receiver of a signal it would be lost: `Signal.send` catches and logs
it, and the task runs on.  So where this handler is in place, ours stands in front of it when
the child first publishes.  It raises the same exception at once, but not in our receivers, nor
in the `Signal.send` that calls them: then whoever called that gets it at its next line, and
the event is complete.

An exception gets into another frame by way of the frame's trace function, as a debugger does
it.  Where one is at work already, the limit is raised at once.
"""

from __future__ import annotations

import signal
import sys

# That of `signal` looks for an enum first, and takes 7 us in place of 0.05.
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

from billiard import pool
from celery import signals
from celery.utils.dispatch import Signal

_SIGNALS: Final = (signals.before_task_publish, signals.after_task_publish)


class LimitGuard:
    """Keeps limits out of these receivers, which are functions, not methods."""

    def __init__(self, *receivers: Callable[..., None]) -> None:
        self._receivers: Final = {receiver.__code__ for receiver in receivers}

    def stand(self) -> None:
        """Stand in front of the pool's handler, if this process has it and we do not yet."""
        limit = pool.SIG_SOFT_TIMEOUT
        if limit is not None and getsignal(limit) is pool.soft_timeout_sighandler:
            try:
                signal.signal(limit, self._on_limit)
            except ValueError:  # only the main thread may; and only there a limit is raised
                pass

    def _on_limit(self, number: int, frame: FrameType | None) -> None:
        publisher = self._publisher(frame)
        if publisher is None or sys.gettrace() is not None:
            pool.soft_timeout_sighandler(number, frame)
            return

        def raise_it(_frame: FrameType, _event: str, _arg: object) -> NoReturn:
            # When a trace function raises, Python takes it away, and the general one as well.
            raise pool.SoftTimeLimitExceeded

        publisher.f_trace = raise_it
        sys.settrace(_trace_nothing_else)

    def _publisher(self, frame: FrameType | None) -> FrameType | None:
        """Who called the outermost `Signal.send` that is at our receivers, or between them."""
        found, called = None, None
        while frame is not None:
            if (
                frame.f_code is Signal.send.__code__
                and frame.f_locals["self"] in _SIGNALS
                and (called is None or called.f_code in self._receivers)
            ):
                found = frame.f_back
            frame, called = frame.f_back, frame
        return found


def _trace_nothing_else(_frame: FrameType, _event: str, _arg: object) -> Any:
    """Python asks this for each frame that begins, and is told not to trace it."""
