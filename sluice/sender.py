"""Ring -> batches -> dispatch: the loop on the sender's own thread.

Guarantees: what is in the ring is offered batch by batch, in its order; the chores are done
every two seconds while nothing blocks; when told to end, it ends by the deadline it was
given, apart from a request that the operating system does not give back (its thread is then
left to die with the process).  What becomes of an event is decided in `dispatch`.

Clock, wait and deliver come from outside.  Nothing here logs, imports, or takes a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from sluice import batch
from sluice.dispatch import Deliver, Dispatch
from sluice.http import Outcome
from sluice.ring import Reader, Record, Ring

MOST_EVENTS: Final = 500
MOST_BYTES: Final = 512 * 1024
#: With a review, which may be slow: the chores do not wait for more than these.
_MOST_REVIEWED: Final = 50
_MOST_OF_RECORDS: Final = MOST_BYTES - MOST_EVENTS * batch.OVERHEAD_OF_EVENT
#: Seconds: a heartbeat is due.
_CHORES_EVERY: Final = 2.0
#: Seconds between tries while the process waits for us to end.
_LAST_TRIES: Final = 0.2


class Sender:
    """Sends what is in `ring` until told to end.

    `wait(seconds)` returns at once, and True, when someone rang; `chores()` is called at least
    every `interval` seconds, and every two, while nothing blocks, also between the tries of one
    batch.
    `on_error` gets an exception that was not foreseen; the loop goes on.  `on_odd` hears of an
    event that is dropped because the server stumbles over it.  `review` gives the record to
    send in place of another, with an empty payload for none.
    """

    def __init__(
        self,
        ring: Ring,
        *,
        deliver: Deliver,
        wait: Callable[[float], bool],
        clock: Callable[[], float],
        interval: float,
        chores: Callable[[], None],
        dropped_elsewhere: Callable[[], int],
        on_error: Callable[[BaseException], None],
        on_odd: Callable[[Outcome], None],
        review: Callable[[Record, int], Record] | None = None,
    ) -> None:
        self._ring = ring
        self._reader = Reader(ring)
        self._wait = wait
        self._clock = clock
        self._interval = interval
        self._chores = chores
        self._on_error = on_error
        self._review = review
        self._most = MOST_EVENTS if review is None else _MOST_REVIEWED
        self._deadline = inf
        self._chores_at = clock()
        self._dispatch = Dispatch(
            ring,
            deliver=deliver,
            clock=clock,
            time_left=self.time_left,
            pause=self.pause,
            chores=self._do_chores_if_due,
            dropped_elsewhere=dropped_elsewhere,
            on_odd=on_odd,
        )
        self.account: Final = self._dispatch.account
        #: Turns that were begun, and the last one that left nothing undelivered.
        self.turns_begun = 0
        self.last_full_turn = 0
        self.finished = False

    # Called from the application's threads.

    def end_by(self, deadline: float) -> None:
        """Send what is there and end, at `deadline` (of the clock) at the latest.

        An earlier one stays: what it has cut short is not taken up again.
        """
        self._deadline = min(deadline, self._deadline)

    @property
    def dropped(self) -> int:
        """Events of this ring that will never be delivered."""
        return self._dispatch.dropped

    # Called on the sender's thread.

    def time_left(self) -> float:
        """Seconds until this must end; infinity until it is told to."""
        return self._deadline - self._clock()

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._deadline != inf

    def pause(self, seconds: float) -> None:
        """Wait between two tries, doing the chores; shortly when the end is near."""
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0 and not self.ending:
            self._wait(min(left, self._interval, _CHORES_EVERY))
            self._do_chores()
        if self.ending:
            self._wait(max(0.0, min(seconds, _LAST_TRIES, self.time_left())))

    def run(self) -> None:
        """The loop.  Returns when told to end; never raises."""
        try:
            while not self.ending:
                self._rest()
                self._safely_turn()
            while not self._safely_turn() and self.time_left() > 0:
                pass
        finally:
            self.finished = True

    def _rest(self) -> None:
        """Wait for the next turn, or until rung; a long interval is no pause for the chores."""
        until = self._clock() + self._interval
        while (left := until - self._clock()) > _CHORES_EVERY and not self.ending:
            if self._wait(_CHORES_EVERY):
                return
            self._do_chores()
        self._wait(max(0.0, left))

    def turn(self) -> None:
        """Send all that is there when it begins, and at the end all that comes meanwhile."""
        self.turns_begun += 1
        turn = self.turns_begun
        self._do_chores()
        there = self._ring.next_seq
        while self.time_left() > 0:
            records = self._reader.read(self._most, _MOST_OF_RECORDS)
            # What comes while this batch is sent waits for the next turn, and fills its batch.
            more = self._reader.behind
            sent = not records or self._dispatch.send(
                self._reader, self._reviewed(records), self._following
            )
            if self._ring.settled_seq >= there:
                self.last_full_turn = turn
            if not sent:
                self._reader = Reader(self._ring)  # begin again at the read mark
                if not self.ending:
                    return
                self.pause(_LAST_TRIES)
                continue
            if records:
                self._do_chores()
            if not records or not (more or self.ending):
                return

    def _following(self) -> Sequence[Record]:
        return self._reviewed(self._reader.read(self._most, _MOST_OF_RECORDS))

    def _safely_turn(self) -> bool:
        try:
            self.turn()
        except BaseException as error:  # noqa: BLE001  a bug of ours must not end the thread
            self._on_error(error)
            self._reader = Reader(self._ring)
            self.pause(self._interval)
            return False
        return True

    def _do_chores(self) -> None:
        """Also in the middle of a batch, which they must not disturb."""
        self._chores_at = self._clock()
        try:
            self._chores()
        except BaseException as error:  # noqa: BLE001  as above
            self._on_error(error)

    def _do_chores_if_due(self) -> None:
        if self._clock() - self._chores_at >= _CHORES_EVERY:
            self._do_chores()

    def _reviewed(self, records: Sequence[Record]) -> Sequence[Record]:
        """What is to be sent of these: as many as the time allows, at least one of them."""
        if self._review is None:
            return records
        reviewed: list[Record] = []
        for record in records:
            reviewed.append(self._review(record, self._ring.ring_id))
            if self.time_left() <= 0:
                break
        return reviewed
