"""Where the threads and greenlets of a worker are, told at a SIGUSR1: for one that does not end.

Celery tells of threads at that signal, and not of greenlets.
"""

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any


def tell_at_usr1(**_: object) -> None:
    """Put it in the place of Celery's own; a receiver of `worker_ready`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, _tell)


def _tell(*_: object) -> None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        _print(f"thread {names.get(ident, ident)}", frame)
    for one in _greenlets():
        if one.gr_frame is not None:
            _print(repr(one), one.gr_frame)


def _greenlets() -> Iterator[Any]:
    if greenlet := sys.modules.get("greenlet"):
        for one in gc.get_objects():
            if issubclass(type(one), greenlet.greenlet):  # isinstance would ask proxies
                yield one


def _print(title: str, frame: FrameType) -> None:
    text = f"--- {title}\n" + "".join(traceback.format_stack(frame))
    os.write(1, text.encode())  # a signal may have come in the middle of a print
