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
from sluice.http import Outcome, Patience, Verdict
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
#: Answers of 500 in a row to one body, and seconds of them, before it may be what is in it.
_TRIES: Final = 3
_PATIENCE: Final = 60.0
#: Seconds of them where events that came after it fared no better, or none had come.
_PATIENCE_WITH_TROUBLE: Final = 300.0
_PATIENCE_FOR_MORE: Final = 5.0
#: Events in a row that a server may stumble over, each.
_MOST_SUSPECTS: Final = 4


class Deliver(Protocol):
    """Sends one body and says what became of it; it may take its time."""

    def __call__(self, body: bytes, patience: Patience) -> Outcome: ...  # noqa: D102


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


@dataclass
class _Batch:
    """One on its way."""

    #: What is still to be offered, in the order of the ring; the next is the last.
    parts: list[Sequence[Record]]
    #: Not settled yet: it was answered with 500 (None), or is refused and comes after such a one.
    suspects: list[tuple[Sequence[Record], Verdict | None]] = field(default_factory=list)
    #: It is being looked for what a server stumbles over.
    doubted: bool = False
    #: Something passed, or was nobody's to send.
    taken: bool = False


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
        self._on_odd = on_odd
        self._review = review
        self._most = MOST_EVENTS if review is None else _MOST_REVIEWED
        self._deadline = inf
        self._drops_reported = 0
        self._refusal_pause = 0.0
        self._patience = _PATIENCE
        self._chores_at = clock()
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
        self._chores_at = self._clock()
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
        """Deliver, halving what is refused.  False: some were not sent, for now.

        What is answered with 500, and nothing else, for a minute is halved, too.  A single event
        that is answered so is a suspect, and is dropped if it is again after one behind it
        passed.  Where nothing passes the server is in trouble, and nothing is dropped.
        """
        this = _Batch([records])
        further = False
        while this.parts:
            if self.time_left() <= 0 or not self._offer(this):
                return False
            if self._clock() - self._chores_at >= _CHORES_EVERY:
                self._do_chores()
            if this.suspects and not this.parts and not further:
                further = True
                this.parts += self._next_batch()
        if this.suspects:
            self._patience = min(max(_PATIENCE_FOR_MORE, 2 * self._patience), _PATIENCE)
            return False
        self._slow_down_if_nothing_passes(this.taken)
        return True

    def _next_batch(self) -> list[Sequence[Record]]:
        records = self._reader.read(self._most, _MOST_OF_RECORDS)
        return [self._reviewed(records)] if records else []

    def _offer(self, this: _Batch) -> bool:
        """Offer the next part.  False: that is all for now."""
        part = this.parts.pop()
        wanted = [record for record in part if record.payload]
        if not wanted:
            this.taken = True
            self._refuse_in_order(this, part, Verdict.REJECTED)
            return True
        drops = self.dropped + self._dropped_elsewhere()
        body = batch.body(wanted, self._ring.ring_id, max(0, drops - self._drops_reported))
        patience = Patience(_TRIES, 0.0 if this.doubted else self._patience)
        if this.doubted and len(part) > 1:  # nobody is judged by this one
            patience = Patience(1, 0.0)
        outcome = self._deliver(body, patience)
        if outcome.verdict is Verdict.DELIVERED:
            this.taken = True
            self._drops_reported = max(drops, self._drops_reported)
            if not self._judge(this.suspects):
                return False
            self.account.delivered += len(wanted)
            self._settle(part)
            if not this.doubted:
                self._patience = _PATIENCE
        elif outcome.doubtful:
            return self._looks_into(this, part)
        elif outcome.verdict not in _HALVED:
            return False
        elif len(part) > 1:
            this.parts += _halves(part)
        else:
            self._refuse_in_order(this, part, outcome.verdict)
        return True

    def _looks_into(self, this: _Batch, part: Sequence[Record]) -> bool:
        """After answers of 500.  False: too much in a row is answered so."""
        this.doubted = True
        if len(part) > 1:
            this.parts += _halves(part)
        elif sum(verdict is None for _, verdict in this.suspects) < _MOST_SUSPECTS:
            this.suspects.append((part, None))
        else:
            self._patience = _PATIENCE_WITH_TROUBLE
            return False
        return True

    def _judge(self, suspects: list[tuple[Sequence[Record], Verdict | None]]) -> bool:
        """Ask for each again, now that something has passed.  False: the time is up."""
        while suspects:
            part, verdict = suspects[0]
            if verdict is None:
                body = batch.body(part, self._ring.ring_id)
                outcome = self._deliver(body, Patience(_TRIES, 0.0))
                if outcome.verdict is Verdict.DELIVERED:  # the server was in trouble, for a while
                    self.account.delivered += 1
                    self._settle(part)
                    del suspects[0]
                    continue
                verdict = Verdict.REJECTED if outcome.doubtful else outcome.verdict
                if verdict not in _HALVED or self.time_left() <= 0:
                    return False
                self._patience = 0.0  # where there is one there may be more
                self._on_odd(Outcome(verdict, outcome.reason))
            self._refuse(part, verdict)
            del suspects[0]
        return True

    def _refuse_in_order(self, this: _Batch, part: Sequence[Record], verdict: Verdict) -> None:
        """Drop it, or remember to: the read mark does not go beyond a suspect.

        A refusal is no sign that what is good would pass.
        """
        if this.suspects:
            this.suspects.append((part, verdict))
        else:
            self._refuse(part, verdict)

    def _refuse(self, part: Sequence[Record], verdict: Verdict) -> None:
        """Drop these, but for what was kept back anyway."""
        self.account.refused[verdict.name.lower()] += sum(bool(r.payload) for r in part)
        self._settle(part)

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
