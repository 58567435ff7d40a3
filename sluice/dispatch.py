"""One batch -> the fate of each event in it: delivered, refused for good, or to wait.

Guarantees: the read mark of the ring moves only over events that were delivered or refused
for good, in the order of the ring; one bad event costs itself and no other; a server in
trouble costs none, however long it is and whenever it recovers.

What the API refuses, with 400 or 413, is halved until the bad event is alone.  500 says that
the server is in trouble, and the batch is tried again and again; but some servers answer so
for what is in one event, each time, and it would hold all others up.  So after a minute of
nothing but 500 the batch is halved as well.  A single event that is answered so is a suspect.
When one behind it has passed, both are asked for in turns: only if it fails and the other one
passes, each time, is it dropped; and ten in five minutes at most.

Clock, pause and deliver come from outside.  Nothing here logs, imports, or takes a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, Protocol

from sluice import batch
from sluice.http import Outcome, Patience, Verdict
from sluice.ring import Reader, Record, Ring

_HALVED: Final = (Verdict.REJECTED, Verdict.TOO_LARGE)
_FIRST_PAUSE_AFTER_REFUSAL: Final = 1.0
_LONGEST_PAUSE_AFTER_REFUSAL: Final = 60.0
#: Answers of 500 in a row to one body, and seconds of them, before it may be what is in it.
_TRIES: Final = 3
_PATIENCE: Final = 60.0
#: Seconds of them where events that came after it fared no better, or none had come.
_PATIENCE_WITH_TROUBLE: Final = 300.0
_PATIENCE_FOR_MORE: Final = 5.0
_ONCE: Final = Patience(1, 0.0)
#: Events in a row that a server may stumble over, each.
_MOST_SUSPECTS: Final = 4
#: How often one fails, and another passes in between, before it is dropped.
_PROOFS: Final = 5
#: How many may be dropped so, in how many seconds.
_MOST_DROPPED: Final = 10
_DROPPED_IN: Final = 300.0


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


class Dispatch:
    """Offers batches of `ring` to the API, and settles what is decided.

    `chores()` is called between two parts.  `on_odd` hears of an event that is dropped because
    the server stumbles over it.
    """

    def __init__(
        self,
        ring: Ring,
        *,
        deliver: Deliver,
        clock: Callable[[], float],
        time_left: Callable[[], float],
        pause: Callable[[float], None],
        chores: Callable[[], None],
        dropped_elsewhere: Callable[[], int],
        on_odd: Callable[[Outcome], None],
    ) -> None:
        self.account: Final = Account()
        self._ring = ring
        self._reader = Reader(ring)
        self._deliver = deliver
        self._clock = clock
        self._time_left = time_left
        self._pause = pause
        self._chores = chores
        self._dropped_elsewhere = dropped_elsewhere
        self._on_odd = on_odd
        self._drops_reported = 0
        self._refusal_pause = 0.0
        self._patience = _PATIENCE
        #: When events were dropped that the server stumbled over, the last ones.
        self._dropped_at = deque([-inf] * _MOST_DROPPED, maxlen=_MOST_DROPPED)

    @property
    def dropped(self) -> int:
        """Events of this ring that will never be delivered."""
        return self.account.lost + sum(self.account.refused.values()) + self._ring.skipped

    def send(
        self, reader: Reader, records: Sequence[Record], following: Callable[[], Sequence[Record]]
    ) -> bool:
        """Offer these, of `reader`, until the fate of each is decided.  False: some have to wait.

        `following` reads the next batch, where that is needed to know.
        """
        self._reader = reader
        this = _Batch([records])
        goes_on = True
        while this.parts:
            if self._time_left() <= 0 or not self._offer(this):
                return False
            self._chores()
            if this.suspects and not this.parts and goes_on and (more := following()):
                this.parts.append(more)
                goes_on = not any(record.payload for record in more)
        if this.suspects:
            waits = any(verdict and not _is_kept_back(part) for part, verdict in this.suspects)
            soon = min(max(_PATIENCE_FOR_MORE, 2 * self._patience), _PATIENCE)
            self._patience = _PATIENCE_WITH_TROUBLE if waits else soon
            return False
        self._slow_down_if_nothing_passes(this.taken)
        return True

    def _offer(self, this: _Batch) -> bool:
        """Offer the next part.  False: that is all for now."""
        part = this.parts.pop()
        if _is_kept_back(part):
            this.taken = True
            self._refuse_in_order(this, part, Verdict.REJECTED)
            return True
        wanted = [record for record in part if record.payload]
        drops = self.dropped + self._dropped_elsewhere()
        body = batch.body(wanted, self._ring.ring_id, max(0, drops - self._drops_reported))
        if this.doubted:  # several events together are nobody's proof
            patience = _ONCE if len(part) > 1 else Patience(_TRIES, 0.0)
        else:
            patience = Patience(_TRIES, self._patience)
        outcome = self._deliver(body, patience)
        if outcome.verdict is Verdict.DELIVERED:
            this.taken = True
            self._drops_reported = max(drops, self._drops_reported)
            if not self._judge(this, wanted[0]):
                return False
            self.account.delivered += len(wanted)
            self._settle(part)
            if not this.doubted:
                self._patience = _PATIENCE
        elif outcome.doubtful:
            return self._suspect(this, part)
        elif outcome.verdict not in _HALVED:
            return False
        elif len(part) > 1:
            this.parts += _halves(part)
        else:
            self._refuse_in_order(this, part, outcome.verdict)
        return True

    def _suspect(self, this: _Batch, part: Sequence[Record]) -> bool:
        """It was answered with 500.  False: too much in a row is."""
        this.doubted = True
        if len(part) > 1:
            this.parts += _halves(part)
        elif sum(verdict is None for _, verdict in this.suspects) < _MOST_SUSPECTS:
            this.suspects.append((part, None))
        else:
            self._patience = _PATIENCE_WITH_TROUBLE
            return False
        return True

    def _judge(self, this: _Batch, witness: Record) -> bool:
        """Decide about all suspects, now that `witness` has passed.  False: that cannot be."""
        while this.suspects:
            part, verdict = this.suspects[0]
            if verdict is None:
                outcome = self._prove(part, witness)
                if outcome is None:
                    return False
                if outcome.verdict is Verdict.DELIVERED:  # the server was in trouble, for a while
                    self.account.delivered += 1
                    self._settle(part)
                    del this.suspects[0]
                    continue
                verdict = outcome.verdict
            self._refuse(part, verdict)
            del this.suspects[0]
        return True

    def _prove(self, part: Sequence[Record], witness: Record) -> Outcome | None:
        """Ask for both in turns: the outcome for `part`, or None where it proves nothing."""
        body, other = (batch.body(one, self._ring.ring_id) for one in (part, [witness]))
        outcome = None
        for _ in range(_PROOFS):
            if self._time_left() <= 0:
                return None
            outcome = self._deliver(body, _ONCE)
            if not outcome.doubtful:
                decided = outcome.verdict is Verdict.DELIVERED or outcome.verdict in _HALVED
                return outcome if decided else None
            if self._deliver(other, _ONCE).verdict is not Verdict.DELIVERED:
                self._patience = _PATIENCE
                return None
        assert outcome is not None  # noqa: S101  it was asked for at least once
        now = self._clock()
        if now - self._dropped_at[0] < _DROPPED_IN:
            self._patience = _PATIENCE_WITH_TROUBLE
            return None
        self._dropped_at.append(now)
        self._patience = 0.0  # where there is one there may be more
        odd = Outcome(Verdict.REJECTED, outcome.reason)
        self._on_odd(odd)
        return odd

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
        self._pause(self._refusal_pause)


def _is_kept_back(part: Sequence[Record]) -> bool:
    return not any(record.payload for record in part)


def _halves(part: Sequence[Record]) -> list[Sequence[Record]]:
    """The second half and the first, which is taken next."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]]
