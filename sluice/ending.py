"""The ways in which a process ends of its own accord, and a call before each of them.

What this relies on (tests: ``tests/test_ending.py``)
-----------------------------------------------------
* `atexit` calls what was registered last first.
* A process that `multiprocessing` forks ends without `atexit` before Python 3.13, by way of a
  list of its own; the others end with both.
* uvicorn (since 0.29) stops in order at a SIGTERM and then gives the signal back its default
  action and sends it to itself: the kernel ends the process there, and neither of the two is
  called.  It does so by `signal.raise_signal`, which is therefore another one from the first
  task sent: the same, with the call before it where the signal will end the process.

Not told of: `os._exit`, and a signal that nobody handles.  What waits then stays in the ring.
"""

from __future__ import annotations

import atexit
import functools
import signal
import sys
from collections.abc import Callable
from typing import Final

#: Signals that are sent to end a process, and whose default action ends it at once.
_DEADLY: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_raise_signal: Final = signal.raise_signal


def call_before_the_end(call: Callable[[], None]) -> None:
    """Have `call` called when this process ends, before what others have registered so far.

    One such function per process; it is called once or more, and must not raise.
    """
    atexit.unregister(call)
    atexit.register(call)
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, call, exitpriority=0)

    @functools.wraps(_raise_signal)
    def raise_signal(signalnum: int, /) -> None:
        if signalnum in _DEADLY and signal.getsignal(signalnum) is signal.SIG_DFL:
            call()
        _raise_signal(signalnum)

    signal.raise_signal = raise_signal
