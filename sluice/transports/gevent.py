"""A native thread of gevent's own: `gevent.get_hub().threadpool`.

Guarantees, and what they rely on (tests: ``tests/transports/test_green.py``)
------------------------------------------------------------------------
* The application keeps every slot of the pool, for its own work and for DNS: the pool
  grows by the one that the sender takes.
* `gevent.wait()` and `hub.join()` return as if the sender were not there.  A running job
  of the pool holds a watcher that keeps the loop alive; `loop.unref()` takes our one out
  of the count, and `loop.ref()` puts it back when the job has ended.  libuv's loop has no
  such call: there, the two wait until Sluice is shut down.
* The threads of the pool are not joined at exit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import gevent
import gevent.hub

from sluice.transports.thread import look_until


class GeventThread:
    """The strategy of a process that gevent has patched."""

    name = "gevent threadpool"

    def start(self, run: Callable[[], None], refused: Callable[[Exception], None]) -> None:
        """Take a slot: now, as a script that ends at once has no later; in the hub, soon."""
        if gevent.getcurrent() is gevent.hub.get_hub():
            gevent.spawn(self._take_a_slot, run, refused)
        else:
            self._take_a_slot(run, refused)

    def _take_a_slot(self, run: Callable[[], None], refused: Callable[[Exception], None]) -> None:
        hub = gevent.get_hub()
        withdrawn = False

        def run_unless_withdrawn() -> None:
            if not withdrawn:
                run()

        try:
            # So that the next line finds a slot, and does not wait.
            hub.threadpool.maxsize += 1
            job = hub.threadpool.spawn(run_unless_withdrawn)
        except RuntimeError as error:
            # The pool has put it into its queue before it asked for a thread: another of its
            # threads takes it from there, some time.
            withdrawn = True
            with suppress(RuntimeError):  # it tries to start a thread for what is in the queue
                hub.threadpool.maxsize -= 1
            refused(error)
            return
        if hasattr(hub.loop, "unref"):
            hub.loop.unref()
            job.rawlink(lambda _: hub.loop.ref())

    def wait_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Look again and again, letting the hub run in between."""
        if gevent.getcurrent() is gevent.hub.get_hub():
            return done()
        return look_until(done, seconds, gevent.sleep)

    def abandon(self) -> None:
        """Nothing to do: gevent does not join the threads of its pool at exit."""


#: What the client starts.
STRATEGY = GeventThread
