"""The only place that wires the parts, and that knows which process this is.

Guarantees
----------
* A process that captures nothing has no ring, no thread and no descriptor of ours.
* A prefork child has a ring that MAIN made for it before the fork, and nothing else: no
  thread, no socket.  Any other forked process begins anew when it first captures.
* Ending takes at most `shutdown_timeout` from the first time the process is known to end.

These are more than 350 lines, because a fork is only right beside what begins and what ends.

What the fork hooks rely on (tests: ``tests/test_fork.py``): `os.fork` calls the `before`
and `after_in_child` hooks on the forking thread, so a ring made in `before` is found by
its thread's number in the child; `multiprocessing`, billiard and gevent all fork through
`os.fork`; and a mapping is shared with the child.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from threading import get_ident
from typing import Final, cast

from sluice import detect, native
from sluice.bell import Bell
from sluice.capture.producer import ProducerCapture, free_the_signals
from sluice.capture.request import TaskObserver
from sluice.capture.worker import WorkerCapture
from sluice.config import Settings, message
from sluice.delivery import Delivery
from sluice.ending import call_before_the_end
from sluice.folder import default_folder
from sluice.notices import Notices
from sluice.orphans import Orphans
from sluice.recorder import Recorder
from sluice.relay import Relay
from sluice.ring import Ring
from sluice.spool import Spool
from sluice.stats import Stats, tally
from sluice.transports.base import Transport
from sluice.transports.thread import PlainThread, look_until

#: Bytes of a prefork child's ring.  It only holds `sent` events.
CHILD_RING: Final = 512 * 1024
#: Seconds: a fork for imports on the sender's thread, an event for another thread's opening.
_LONGEST_IMPORT: Final = 5.0
_LONGEST_OPENING: Final = 0.1
_LONGEST_WAIT: Final = 1e9
#: Seconds until a thread that was refused is asked for again.
_AGAIN_AFTER: Final = 5.0


class Client:
    """Sluice in this process and, after a fork, in its children."""

    def __init__(self, settings: Settings, notices: Notices) -> None:
        self.settings: Final = settings
        self.notices: Final = notices
        self.recorder: Final = Recorder(
            settings.connection_id, settings.environment, self.notices, self._open, self._serve
        )
        folder = Path(settings.spool_dir) if settings.spool_dir else None
        self._spool: Final = Spool(folder, settings.connection_id, self._say_of_spool)
        self._concurrency = detect.detect()
        self._native: native.Native | None = None
        self._chores: list[Callable[[], None]] = []
        self._for_child: dict[int, Ring] = {}
        self._begin_process()

    def _begin_process(self) -> None:
        """What is true of a process that has captured nothing yet; also after a fork."""
        self.recorder.ring = self.recorder.bell = None
        self._pid = self.recorder.pid = os.getpid()  # now: no event goes into the parent's ring
        self.recorder.missed = 0
        self._spool.forget()
        self._opening = [None]  # taken, as in the ring, by who opens
        self._is_worker = self._forks = False
        self._relay: Relay | None = None
        self._orphans: Orphans | None = None
        self._delivery: Delivery | None = None
        self._transport: Transport | None = None
        self._importing = False
        self.recorder.unserved = self._ends_in_order = False
        self._again_at = 0.0
        self._ending: list[None] = [None]
        self._exit_deadline = inf
        self._captured_at_exit = 0
        self._last_stats = Stats()
        self._chores.clear()

    def connect(self) -> None:
        """Connect to Celery, and be ready for forks.  Nothing is captured if this raises.

        In a process that is patched, or may be after a fork, the sender's modules are copied
        here, before there is an event loop to hold up; others import them when they first send.
        """
        if self._concurrency.is_green or detect.may_be_patched_later():
            self._native = native.load_island()
        if self.settings.debug:
            evidence = self._concurrency.evidence
            self.notices.add("detected", f"[sluice] On: {evidence}.", level=logging.INFO)
        if self.settings.celery_events:
            from sluice.capture import broker_events

            broker_events.turn_on(lambda text: self.notices.add(text, text))
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork_in_parent,
            after_in_child=self._after_fork_in_child,
        )
        observer = TaskObserver(self.recorder, tracebacks=self.settings.capture_tracebacks)
        captures = ProducerCapture(self.recorder), WorkerCapture(self.recorder, observer, self)
        try:
            for capture in captures:
                capture.connect()
        except BaseException:
            for capture in captures:
                capture.disconnect()
            raise

    def _say_of_spool(self, kind: str, text: str) -> bool:
        """At most once a minute for each kind: a folder can be full of strange files."""
        return self.notices.add(kind, f"[sluice] {text[0].upper()}{text[1:]}.", once=False)

    # Opening: the first event of a process.

    def _open(self) -> None:
        """Make this process's ring, and unless it is a worker (which waits) its sender."""
        self._look_for_a_fork()
        try:
            del self._opening[0]
        except IndexError:  # another thread, or the code that a signal interrupted, is at it
            look_until(lambda: self.recorder.ring is not None, _LONGEST_OPENING, time.sleep)
            return
        try:
            self._open_ring()
            self.start_sender()
        finally:
            self._opening.append(None)

    def _open_ring(self) -> None:
        if not self.settings.spool_dir:
            self._spool.folder = default_folder()  # of who this process runs as by now
        bell = Bell()
        try:
            ring = self._spool.create(self.settings.buffer_bytes, writer_pid=self._pid)
        except BaseException:
            bell.close()
            raise
        self._relay = Relay(ring, self._spool.discard)
        self._orphans = Orphans(
            self._spool,
            ring,
            self.settings.connection_id,
            self.notices,
            delivers=self._can_deliver,
        )
        self._ending = [None]  # taken by who ends
        self.recorder.bell = bell
        self.recorder.ring = ring

    def begin_worker(self, *, forks: bool) -> None:
        """This is a worker's MAIN: make the ring before children are forked."""
        self._look_for_a_fork()
        self._exit_deadline = inf
        self._chores.clear()
        if self.recorder.ring is None:
            self._open_ring()
        self._is_worker, self._forks = True, forks

    def at_every_turn(self, chore: Callable[[], None]) -> None:
        """Have `chore` called by the sender's thread, or its helper while that waits for the API.

        Never by both at once, and never by a thread of the application.
        """
        self._chores.append(chore)

    def start_sender(self) -> None:
        """Start the sender of this process, if it has none; else see that it is well.

        Its imports happen here in a worker and in a patched process, and on its own thread
        elsewhere: a web request does not wait for them.
        """
        ring, bell, relay = self.recorder.ring, self.recorder.bell, self._relay
        if self._delivery is not None:
            self._delivery.look_after()
            return
        if ring is None or bell is None or relay is None:
            return
        now = self._concurrency = detect.detect()
        if now.is_green and self._native is not None and not self._native.is_island:
            self._native = None  # the ordinary modules, which have been patched since
        if self._native is None and (now.is_green or self._chores):
            self._native = native.load(now)
        self._importing = self._native is None
        self._transport = _transport(now.library, self._native)
        self._delivery = Delivery(
            self.settings,
            ring,
            relay,
            bell,
            self.notices,
            native=self._sender_modules,
            chores=self._do_chores,
            lost=lambda: sum(self._lost.values()),
            is_worker=lambda: self._is_worker,
        )
        self.recorder.unserved = False
        self._transport.start(self._delivery.run, self._refused)
        if not self._ends_in_order:
            self._ends_in_order = True
            call_before_the_end(self._at_exit)  # before those of the libraries just imported

    def _refused(self, error: Exception) -> None:
        """No thread is to be had; may come later, from a hub's turn."""
        self._importing = False
        if "shutdown" in str(error):
            return  # the interpreter's end, which has no threads
        self._delivery = None
        self.recorder.unserved = True
        self._again_at = time.monotonic() + _AGAIN_AFTER
        text = message(
            f"No thread can be started ({error})",
            "Events wait, and it is tried again every few seconds;"
            " look at the limits of threads, processes and descriptors",
        )
        self.notices.add("no thread", text)

    def _serve(self) -> None:
        """An event came, and nobody sends it: try again, now and then.  Never raises."""
        try:
            if not self.recorder.closed and time.monotonic() >= self._again_at:
                self._again_at = time.monotonic() + _AGAIN_AFTER
                self.start_sender()
        except Exception as error:  # noqa: BLE001  rule 1
            self.notices.fault("the start of the sender", error)

    def _sender_modules(self) -> native.Native:
        """The sender's modules; called on its thread, which imports them if nobody has."""
        try:
            if self._native is None:
                self._native = native.load(self._concurrency)
            return self._native
        finally:
            self._importing = False

    def keep_sign(self, sign: bytes | None) -> None:
        """Keep the worker's sign of life beside its ring; None: it has ended properly."""
        ring = self.recorder.ring
        if ring is not None and sign is not None:
            self._spool.keep_sign(ring, sign)
        elif ring is not None:
            self._spool.remove_sign(ring)

    def _can_deliver(self) -> bool:
        delivery = self._delivery
        return delivery is not None and delivery.delivers and not delivery.is_ending

    def _do_chores(self) -> None:
        if self._orphans is not None:
            self._orphans.turn()
        for chore in self._chores:
            chore()

    # Forks.

    def _before_fork(self) -> None:
        try:
            if self._importing:
                # A child would inherit the lock of a module that is half imported.
                look_until(lambda: not self._importing, _LONGEST_IMPORT, time.sleep)
            if self._forks and self._relay is not None and self._can_move:
                ring = self._spool.create(CHILD_RING, writer_pid=0)
                self._for_child[get_ident()] = ring
                self._relay.add(ring)
        except Exception as error:  # noqa: BLE001  the application's fork must not fail
            self.notices.fault("a fork", error)

    @property
    def _can_move(self) -> bool:
        """Whether somebody reads the rings of children, or will: each takes a descriptor."""
        if self.recorder.ring is None:
            return False  # it has ended
        if self._delivery is None:
            return not self.recorder.unserved  # the first children are there before the sender
        return not self._delivery.finished

    def _after_fork_in_parent(self) -> None:
        self._for_child.pop(get_ident(), None)

    def _after_fork_in_child(self) -> None:
        ring, bell = self._for_child.get(get_ident()), self.recorder.bell
        fault: Exception | None = None
        try:
            self._let_go(ring)
        except Exception as error:  # noqa: BLE001  or it would write into its parent's ring
            fault = error
        self._for_child = {}
        self._begin_process()
        if ring is not None:
            self.notices.leave_to_parent()
            ring.writer_pid = self._pid
            self.recorder.ring, self.recorder.bell = ring, bell
        if fault is not None:
            self.notices.fault("a forked child", fault)

    def _let_go(self, ring: Ring | None) -> None:
        """In a child: keep nothing that is its parent's, but for this ring."""
        free_the_signals()
        if self._delivery is not None:
            self._delivery.close_inherited()
        if self._orphans is not None:
            self._orphans.let_go()
        if self._relay is not None:
            self._relay.let_go(ring)
        inherited = self.recorder.ring
        if inherited is not None and inherited is not ring:
            inherited.let_go()  # or it would be nobody's only when this child has ended, too

    # Ending.

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was captured so far is delivered; in a child, taken over by MAIN.

        False: `timeout` seconds (`shutdown_timeout`) were too few.
        """
        seconds = self._finite(timeout)
        self._look_for_a_fork()
        ring, bell = self.recorder.ring, self.recorder.bell
        if ring is None or bell is None:
            return True
        delivery, last = self._delivery, ring.next_seq
        turn = delivery.turns_begun + 1 if delivery is not None else 0  # before it is woken
        bell.ring()
        if self._relay is None:
            wait_until = _transport(self._concurrency.library, self._native).wait_until
            return wait_until(lambda: ring.settled_seq >= last, seconds)
        if delivery is None or self._transport is None:
            return ring.settled_seq >= last
        done = self._transport.wait_until(
            lambda: delivery.last_full_turn >= turn or delivery.finished, seconds
        )
        self.notices.log()
        return done and ring.settled_seq >= last

    def flush_at_end(self) -> None:
        """Flush within what is left of the time for ending, which begins now."""
        self.flush(self._time_to_end())
        self._captured_at_exit = self._captured_here  # what came meanwhile gives it no more time

    def shutdown(self, timeout: float | None = None) -> bool:
        """Deliver what there is, stop sending, and capture no more.

        True if everything was delivered within `timeout` seconds (`shutdown_timeout`).
        """
        self._look_for_a_fork()
        self.recorder.closed = True
        done = self._end(self._finite(timeout))
        if self._delivery is None and self._relay is not None:  # it had no thread to end
            self._last_stats = self.stats()
            self.recorder.ring = None
        return done

    def _look_for_a_fork(self) -> None:
        """Begin anew if this is a process that no hook told us of: uWSGI forks like that."""
        if self._pid != os.getpid():
            self._begin_process()

    def _finite(self, timeout: float | None) -> float:
        """Seconds that can be counted: infinity is a long time, and what is no number is none."""
        seconds = self.settings.shutdown_timeout if timeout is None else timeout
        return min(max(0.0, seconds), _LONGEST_WAIT)

    def _at_exit(self) -> None:
        try:
            if self._pid == os.getpid():
                self._end(self._time_to_end())
        except Exception as error:  # noqa: BLE001  rule 1
            self.notices.fault("the end of the process", error)
            self.notices.log()

    def _time_to_end(self) -> float:
        now, captured = time.monotonic(), self._captured_here
        if now > self._exit_deadline and captured > self._captured_at_exit:
            self._exit_deadline = inf  # a worker has ended here, and the process went on
        self._captured_at_exit = captured
        self._exit_deadline = min(self._exit_deadline, now + self.settings.shutdown_timeout)
        return max(0.0, self._exit_deadline - now)

    @property
    def _captured_here(self) -> int:
        """Events of this process itself, without those that were moved into its ring."""
        ring, relay, orphans = self.recorder.ring, self._relay, self._orphans
        if ring is None or relay is None or orphans is None:
            return 0
        return ring.next_seq - relay.moved - orphans.moved - orphans.reported

    def _end(self, seconds: float) -> bool:
        ring, bell = self.recorder.ring, self.recorder.bell
        delivery, transport = self._delivery, self._transport
        if ring is None or bell is None or delivery is None or transport is None:
            return ring is None or ring.settled_seq >= ring.next_seq
        delivery.end_by(time.monotonic() + seconds)
        bell.ring()
        in_time = transport.wait_until(lambda: delivery.finished, seconds)
        try:
            del self._ending[0]
        except IndexError:  # another thread, or the code that a signal interrupted, has it
            return ring.settled_seq >= ring.next_seq
        if in_time:
            bell.close()
        else:
            transport.abandon()
        self._last_stats = self.stats()
        self._delivery = self.recorder.ring = None
        rings = [ring, *(self._relay.rings if self._relay is not None else ())]
        left = sum(each.next_seq - each.settled_seq for each in rings)
        self._spool.remove_sign(ring)
        for each in rings:
            if each.next_seq == each.settled_seq:
                self._spool.unlink(each)
        if left:
            self.notices.add(
                "left", f"[sluice] {left} events were not delivered before the process ended."
            )
        self.notices.log()
        return not left

    # What it has to say for itself.

    def stats(self) -> Stats:
        """The counters of this process and, in a worker's MAIN, of its children."""
        self._look_for_a_fork()
        ring = self.recorder.ring
        if ring is None:
            return self._last_stats
        name = self._transport.name if self._transport is not None else "none"
        return tally(ring, self._relay, self._delivery, name, self.notices.faults, lost=self._lost)

    @property
    def _lost(self) -> dict[str, int]:
        """Events that never came to a ring of this process, by reason."""
        lost = {"no_buffer": self.recorder.missed, "no_room": self._spool.removed}
        return lost if self._orphans is None else lost | self._orphans.lost


def _transport(library: detect.Library, modules: native.Native | None) -> Transport:
    """The strategy for this concurrency."""
    if library == "none":
        return PlainThread()
    try:
        strategy = importlib.import_module(f"sluice.transports.{library}")
        return cast("Transport", strategy.STRATEGY())
    except ImportError:
        # It has patched this process and cannot be imported: a native thread needs neither.
        return PlainThread(modules.threading.Thread) if modules else PlainThread()
