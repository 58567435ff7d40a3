"""A native thread of eventlet's own: `eventlet.tpool`.

Guarantees, and what they rely on (tests: ``tests/transports/test_green.py``)
--------------------------------------------------------------------------
* The application keeps every thread of the pool: one is added for the sender.
* The process does not hang at exit.  `tpool` registers an `atexit` when it is imported
  that joins its threads, so it is imported here before Sluice registers its own (the last
  registered runs first), and a thread that did not end in time is taken off its list.
* A script that ends at once delivers.  From Python 3.12 no thread can be started once the
  interpreter is ending, so the threads are started here, not in a later turn of the hub.
* The loop never runs on the hub's thread.  `tpool.execute` runs the function inline when
  an import is under way or the pool has no threads; the first is waited out, and in the
  second case a plain native thread does the work.
"""

from __future__ import annotations

import _imp
import warnings
from collections.abc import Callable
from typing import Any

with warnings.catch_warnings():
    # The application chose eventlet; that it is deprecated is between the two of them.
    warnings.simplefilter("ignore")
    import eventlet
    import eventlet.hubs
    from eventlet import tpool

from sluice.transports.thread import PlainThread, look_until


class EventletThread:
    """The strategy of a process that eventlet has patched."""

    name = "eventlet tpool"

    def __init__(self) -> None:
        self._thread: Any = None
        # Whoever takes the one element decides: the thread that it goes back to the pool, or
        # `abandon` that it must not.
        self._way_back: list[None] = [None]

    def start(self, run: Callable[[], None], refused: Callable[[Exception], None]) -> None:
        """Start the threads now, and give one the work at the hub's next turn.

        In the hub itself both come at its next turn: setting up the pool switches greenlets.
        On another thread than the main one nobody may ever run a hub, and the pool would
        answer to the one that it was set up in: there, a plain native thread does the work.
        """
        threading = tpool.threading  # the real one
        if threading.get_ident() != threading.main_thread().ident:
            PlainThread(threading.Thread).start(run, refused)
        elif eventlet.getcurrent() is eventlet.hubs.get_hub().greenlet:
            eventlet.spawn_n(self._start_threads, run, refused)
        else:
            self._start_threads(run, refused)

    def _start_threads(self, run: Callable[[], None], refused: Callable[[Exception], None]) -> None:
        def on_native_thread() -> None:
            self._thread = tpool.threading.current_thread()
            run()
            try:
                self._way_back.pop()
            except IndexError:
                raise SystemExit from None  # `threading` lets this one pass in silence

        if tpool._nthreads == 0:
            PlainThread(tpool.threading.Thread).start(on_native_thread, refused)
            return
        try:
            _set_up_pool()
            extra = tpool.threading.Thread(target=tpool.tworker, name="tpool_sluice", daemon=True)
            extra.start()
        except (RuntimeError, OSError) as error:
            refused(error)
            return
        tpool._threads.append(extra)
        eventlet.spawn_n(_execute, on_native_thread)

    def wait_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Look again and again, letting the hub run in between."""
        if eventlet.getcurrent() is eventlet.hubs.get_hub().greenlet:
            return done()
        return look_until(done, seconds, eventlet.sleep)

    def abandon(self) -> None:
        """Take the thread off the list that `tpool` joins at exit, unless it is on its way."""
        try:
            self._way_back.pop()
        except IndexError:
            return
        if self._thread in tpool._threads:
            tpool._threads.remove(self._thread)


def _set_up_pool() -> None:
    """Set it up or leave it as it was: half of it would take work, and never answer."""
    if tpool._setup_already:
        return
    try:
        tpool.setup()
    except BaseException:
        for _ in tpool._threads:
            tpool._reqq.put(None)  # what ends a thread of the pool
        del tpool._threads[:]
        tpool._setup_already = False
        raise


def _execute(run: Callable[[], None]) -> None:
    """Give the pool its work, from a greenthread that waits for the result as long as it is."""
    while _imp.lock_held():
        eventlet.sleep(0.01)
    tpool.execute(run)


#: What the client starts.
STRATEGY = EventletThread
