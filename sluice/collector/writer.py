"""The one thread of a process that writes, and the queue before it.

Guarantees
----------
* Whoever is told that a batch was accepted has it in the database: the answer waits for the
  transaction.
* What waits is bounded: where the database is slower than those who send, `offer` says so at
  once, and the sender is told to come back.
* The thread outlives faults of the database: those who wait are told, and the next batch is
  tried again.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from sluice.collector.store import Store, Taken
from sluice.events import Event

#: Events that wait at most, and that one transaction takes.
_MOST_WAITING: Final = 20_000
_MOST_TOGETHER: Final = 4_000
_Batch = Sequence[tuple[Event, bytes]]


class Writer:
    """Batches -> `Store.take`, several in one transaction where several wait."""

    def __init__(self, store: Store, on_change: Callable[[int], None]) -> None:
        self._store = store
        self._on_change = on_change
        self._waiting: deque[tuple[_Batch, Future[Taken]]] = deque()
        self._events = 0
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="sluice-writer", daemon=True)
        self._thread.start()

    def offer(self, batch: _Batch) -> Future[Taken] | None:
        """A promise of what becomes of it; None where too much waits already."""
        with self._changed:
            if self._ending or self._events > _MOST_WAITING:
                return None
            promise: Future[Taken] = Future()
            self._waiting.append((batch, promise))
            self._events += _weight(batch)
            self._changed.notify()
        return promise

    def close(self, timeout: float) -> None:
        """Write what waits, and end the thread; at most `timeout` seconds."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ending:
                    self._changed.wait()
                if not self._waiting:
                    return
                taken, number = [], 0
                while self._waiting and number < _MOST_TOGETHER:
                    taken.append(self._waiting.popleft())
                    number += _weight(taken[-1][0])
                self._events -= number
            # Whoever has gone away meanwhile cannot be told, and a promise that is begun stays one.
            self._write([one for one in taken if one[1].set_running_or_notify_cancel()])

    def _write(self, taken: list[tuple[_Batch, Future[Taken]]]) -> None:
        if not taken:
            return
        try:
            results, seq = self._store.take([batch for batch, _ in taken])
        except Exception as error:  # noqa: BLE001  told to each of those who wait
            if len(taken) > 1:  # one that cannot be written must not refuse the others
                for one in taken:
                    self._write([one])
                return
            taken[0][1].set_exception(error)
            return
        with contextlib.suppress(RuntimeError):  # the loop that would hear of it has ended
            self._on_change(seq)  # first: who is answered may ask for the number at once
        for (_, promise), result in zip(taken, results, strict=True):
            promise.set_result(result)


def _weight(batch: _Batch) -> int:
    """How much of what may wait it is: a batch without an event is not for nothing."""
    return max(1, len(batch))
