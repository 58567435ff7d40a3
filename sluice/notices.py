"""What Sluice has to say, said once, and never by the sender.

In a green process the handlers of `logging` have green locks: a native thread that logs
can stop every greenlet (gevent#2013).  And a lock held by the sender at a fork hangs the
child.  So whoever has something to say leaves it here, and the capture side, a timer of
the worker, or whoever ends the process logs it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from math import inf
from typing import Final

from sluice.config import message

logger: Final = logging.getLogger("sluice")
logger.addHandler(logging.NullHandler())

#: Seconds between two lines about the same thing.
REPEAT_AFTER: Final = 60.0
#: Kinds that are remembered, and lines that wait.
_MOST: Final = 64


class Notices:
    """A short list of lines to be logged.  Adding never waits and never logs."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, str]] = deque(maxlen=_MOST)
        #: By kind, when it may be said again.
        self._silent_until: dict[str, float] = {}
        #: Faults of Sluice itself that were caught.
        self.faults = 0

    def add(self, kind: str, text: str, *, level: int = logging.WARNING, once: bool = True) -> bool:
        """Say `text`, unless this kind was said before (`once`) or within the last minute.

        False: it is not said.
        """
        now = time.monotonic()
        if now < self._silent_until.get(kind, -inf):
            return False
        if len(self._silent_until) >= _MOST:
            for other, until in list(self._silent_until.items()):
                if until <= now:
                    self._silent_until.pop(other, None)
            if len(self._silent_until) >= _MOST:
                return False
        self._silent_until[kind] = inf if once else now + REPEAT_AFTER
        self._waiting.append((level, text))
        return True

    def leave_to_parent(self) -> None:
        """In a forked child: what waits is the parent's to say, once."""
        self._waiting.clear()

    def fault(self, place: str, error: BaseException) -> None:
        """A fault of ours: counted, and logged at most once a minute per place.

        Only the exception's type and where it happened: its text could hold anything.
        """
        self.faults += 1
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else "?"
        self.add(
            f"fault {place}",
            message(
                f"A fault in Sluice was caught in {place} ({type(error).__name__} at {where})",
                "The application is not affected, an event may be missing; please report this",
            ),
            once=False,
        )

    def log_when_heard(self) -> None:
        """Log what waits, now or as soon as Celery has set its logging up."""
        self.log()
        if self._waiting:
            from celery.signals import after_setup_logger

            after_setup_logger.connect(
                lambda **_: self.log(), weak=False, dispatch_uid="sluice.after_setup_logger"
            )

    @property
    def pending(self) -> bool:
        """Whether there is something to log."""
        return bool(self._waiting)

    def log(self) -> None:
        """Log what waits.  From the application's threads only.

        It waits on while nobody listens: `init()` runs before a worker sets its logging up.
        """
        if not _somebody_listens():
            return
        while self._waiting:
            try:
                level, text = self._waiting.popleft()
            except IndexError:
                return  # another thread was quicker
            try:
                logger.log(level, "%s", text)
            except Exception:  # noqa: BLE001  a filter or handler of the application's
                self.faults += 1


def _somebody_listens() -> bool:
    at: logging.Logger | None = logger
    while at is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False
