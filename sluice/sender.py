"""Ring -> batches -> deliver -> settle: the loop on the sender's own thread.

Guarantees: the read mark of the ring moves only over events that were delivered or refused
for good; they are offered in the order of the ring; one bad event costs itself and no
other; when told to end, it ends by the deadline it was given, apart from a request that
the operating system does not give back (its thread is then left to die with the process).

Clock, wait and deliver come from outside.  Nothing here logs, imports, or takes a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, Protocol

from sluice import batch
from sluice.http import Outcome, Verdict
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
_FIRST_PAUSE_AFTER_REFUSAL: Final = 1.0
_LONGEST_PAUSE_AFTER_REFUSAL: Final = 60.0
_HALVED: Final = (Verdict.REJECTED, Verdict.TOO_LARGE)
#: Seconds until a server that answers 500 to everything is asked again what it is about.
_DOUBT_AGAIN: Final = 300.0
#: Events in a row that a server may stumble over, each.
_MOST_SUSPECTS: Final = 4


class Deliver(Protocol):
    """Sends one body and says what became of it; it may take its time.

    Until `doubt_at`, of the clock, that is not an outcome that is `doubtful`.
    """

    def __call__(self, body: bytes, doubt_at: float) -> Outcome: ...  # noqa: D102


@dataclass
class Account:
    """What became of the events of one ring.  Written by the sender, read by anyone."""

    delivered: int = 0
    #: Refused by the API one by one, by verdict, and by the application's `before_send`.
    refused: dict[str, int] = field(
        default_factory=lambda: {"rejected": 0, "too_large": 0, "before_send": 0}
    )
    #: Overwritten or damaged before they were sent.
    lost: int = 0


class Sender:
    """Sends what is in `ring` until told to end.

    `wait(seconds)` returns at once, and True, when someone rang; `chores()` is called at least
    every `interval` seconds, and every two, while nothing blocks, also between the tries of one
    batch.
    `on_error` gets an exception that was not foreseen; the loop goes on.  `review` gives
    the record to send in place of another, with an empty payload for none.
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
        review: Callable[[Record, int], Record] | None = None,
    ) -> None:
        self.account: Final = Account()
        self._ring = ring
        self._reader = Reader(ring)
        self._deliver = deliver
        self._wait = wait
        self._clock = clock
        self._interval = interval
        self._chores = chores
        self._dropped_elsewhere = dropped_elsewhere
        self._on_error = on_error
        self._review = review
        self._most = MOST_EVENTS if review is None else _MOST_REVIEWED
        self._deadline = inf
        self._drops_reported = 0
        self._refusal_pause = 0.0
        self._doubt_at = 0.0
        #: Turns that were begun, and the last one that left nothing undelivered.
        self.turns_begun = 0
        self.last_full_turn = 0
        self.finished = False

    # Called from the application's threads.

    def end_by(self, deadline: float) -> None:
        """Send what is there and end, at `deadline` (of the clock) at the latest."""
        self._deadline = deadline

    @property
    def dropped(self) -> int:
        """Events of this ring that will never be delivered."""
        return self.account.lost + sum(self.account.refused.values()) + self._ring.skipped

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
            self._safely_turn()
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
            if records:
                if not self._send(self._reviewed(records)):
                    self._reader = Reader(self._ring)  # begin again at the read mark
                    return
                self._do_chores()
            if self._ring.settled_seq >= there:
                self.last_full_turn = turn
            if not records or not (more or self.ending):
                return

    def _safely_turn(self) -> None:
        try:
            self.turn()
        except BaseException as error:  # noqa: BLE001  a bug of ours must not end the thread
            self._on_error(error)
            self._reader = Reader(self._ring)
            self._wait(self._interval)

    def _do_chores(self) -> None:
        """Also in the middle of a batch, which they must not disturb."""
        try:
            self._chores()
        except BaseException as error:  # noqa: BLE001  as above
            self._on_error(error)

    def _reviewed(self, records: Sequence[Record]) -> Sequence[Record]:
        """What is to be sent of these: as many as the time allows, at least one."""
        if self._review is None:
            return records
        reviewed: list[Record] = []
        for record in records:
            reviewed.append(self._review(record, self._ring.ring_id))
            if self.time_left() <= 0:
                break
        return reviewed

    def _send(self, records: Sequence[Record]) -> bool:
        """Deliver, halving what is refused.  False: the time is up and some were not sent.

        What is answered with 500 is halved, too: who fails alone, and one after it passes, is
        the cause.  Where nothing passes the server is in trouble, and nothing is dropped.
        """
        parts: list[Sequence[Record]] = [records]
        suspects: list[Sequence[Record]] = []
        taken = False
        while parts:
            if self.time_left() <= 0:
                return False
            part = parts.pop()
            wanted = [record for record in part if record.payload]
            if not wanted:
                suspects.append(part)
                if len(suspects) == 1:  # or the mark would go beyond the others
                    self._refuse(suspects, Verdict.REJECTED)
                    taken = True
                continue
            drops = self.dropped + self._dropped_elsewhere()
            body = batch.body(wanted, self._ring.ring_id, max(0, drops - self._drops_reported))
            outcome = self._deliver(body, self._doubt_at)
            if outcome.verdict is Verdict.DELIVERED:
                taken = True
                self._doubt_at = 0.0
                self._refuse(suspects, Verdict.REJECTED)
                self._drops_reported = max(drops, self._drops_reported)
                self.account.delivered += len(wanted)
                self._settle(part)
            elif outcome.doubtful and self._looks_into(part, parts, suspects):
                continue
            elif outcome.verdict not in _HALVED:
                return False
            elif len(part) == 1:
                self._refuse(suspects, Verdict.REJECTED)
                self._refuse([part], outcome.verdict)
            else:
                parts += _halves(part)
        if suspects:
            return self._doubts_no_more()
        self._slow_down_if_nothing_passes(taken)
        return True

    def _looks_into(
        self,
        part: Sequence[Record],
        parts: list[Sequence[Record]],
        suspects: list[Sequence[Record]],
    ) -> bool:
        """After answers of 500.  False: what comes after the suspects does not pass either."""
        if len(suspects) < _MOST_SUSPECTS and len(part) > 1:
            parts += _halves(part)
        elif len(suspects) < _MOST_SUSPECTS and parts:
            suspects.append(part)
        else:
            return self._doubts_no_more()
        return True

    def _doubts_no_more(self) -> bool:
        """The server is in trouble, whatever it is asked: that is so for a while.  False."""
        self._doubt_at = self._clock() + _DOUBT_AGAIN
        return False

    def _refuse(self, parts: list[Sequence[Record]], verdict: Verdict) -> None:
        """Drop these, but for what was kept back anyway, and forget them."""
        for part in parts:
            self.account.refused[verdict.name.lower()] += sum(bool(r.payload) for r in part)
            self._settle(part)
        parts.clear()

    def _settle(self, part: Sequence[Record]) -> None:
        last = part[-1]
        self.account.refused["before_send"] += sum(not record.payload for record in part)
        self.account.lost += last.seq + 1 - self._ring.settled_seq - len(part)
        self._reader.settle(last)

    def _slow_down_if_nothing_passes(self, taken: bool) -> None:
        """An API that refuses every single event would cost a thousand requests a batch."""
        if taken:
            self._refusal_pause = 0.0
            return
        self._refusal_pause = min(
            max(_FIRST_PAUSE_AFTER_REFUSAL, 2 * self._refusal_pause), _LONGEST_PAUSE_AFTER_REFUSAL
        )
        self.pause(self._refusal_pause)


def _halves(part: Sequence[Record]) -> list[Sequence[Record]]:
    """The second half and the first, which is taken next."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]]
