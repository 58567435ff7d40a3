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
        self._said: dict[str, float] = {}
        #: Faults of Sluice itself that were caught.
        self.faults = 0

    def add(self, kind: str, text: str, *, level: int = logging.WARNING, once: bool = True) -> None:
        """Say `text`, unless this kind was said before (`once`) or within the last minute."""
        now = time.monotonic()
        said = self._said.get(kind)
        if said is not None and (once or now - said < REPEAT_AFTER):
            return
        if said is None and len(self._said) >= _MOST:
            return
        self._said[kind] = now
        self._waiting.append((level, text))

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
            logger.log(level, "%s", text)


def _somebody_listens() -> bool:
    at: logging.Logger | None = logger
    while at is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False
