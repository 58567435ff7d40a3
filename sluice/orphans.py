"""What killed processes left in the spool folder -> this process's ring, and a word on who died.

Guarantees
----------
* A ring is read by one process only: whoever holds its lock, which goes with its holder.
* Nothing of it is lost on the way: the mark in the orphan moves after the records are in
  our own ring (and not beside it, where they wait while another thread writes), which
  outlives us as well; one in anonymous memory takes none.  What is moved twice has the same
  id twice.
* It never pushes our own events out: it waits until half of our ring is free, and moves
  less than that at once.
* It takes over only what it can deliver: while the API takes nothing from this process, or
  it is about to end, a ring stays where it is, for whoever has the right key and the time.
* Whatever a file holds, this comes to an end: see :class:`sluice.ring.Reader`.  One that was
  cut off since the last turn is left alone.

Everything here runs on the sender's thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from sluice.batch import with_event_id
from sluice.lifesign import LifeSign, report_of_death
from sluice.notices import Notices
from sluice.ring import Reader, Record, Ring
from sluice.transfer import Transfer

if TYPE_CHECKING:
    from sluice.spool import Spool

#: Seconds between two looks into the folder: a killed worker's children hold its ring a little.
LOOK_EVERY: Final = 15.0
#: Records read at once, and their bytes.
_AT_ONCE: Final = 1_000
_AT_ONCE_BYTES: Final = 512 * 1024
#: Of a small ring, this part for their bytes, and this part for what a record has besides.
_PART_OF_RING: Final = 8
_BESIDES: Final = 80
#: Of workers that were killed, in one line of log.
_MOST_NAMED: Final = 10


class Orphans:
    """Moves what the rings of the dead still hold into `ring`, a few at every turn."""

    def __init__(
        self,
        spool: Spool,
        ring: Ring,
        connection_id: str,
        notices: Notices,
        *,
        delivers: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._ring = ring
        self._connection_id = connection_id
        self._notices = notices
        self._delivers = delivers
        self._monotonic = monotonic
        part = ring.capacity // _PART_OF_RING
        self._at_once = min(_AT_ONCE, part // _BESIDES), min(_AT_ONCE_BYTES, part)
        self._due = 0.0
        self._transfer: Transfer | None = None
        self._sign: LifeSign | None = None
        self._killed: list[str] = []
        #: Events found so far, and those of the dead that were gone or damaged, by reason.
        self.moved = 0
        #: Deaths that were reported.
        self.reported = 0
        self.lost: Final = {"overwritten": 0, "damaged": 0}

    def turn(self) -> None:
        """Look for a ring if it is time, and move some of what it holds.

        One that leads to an exception is not looked at again: the sender goes on without it.
        """
        try:
            self._turn()
        except BaseException:
            self._leave_alone("it led to an error")
            raise

    def _turn(self) -> None:
        if self._transfer is None and self._monotonic() >= self._due and self._delivers():
            self._look()
        if self._transfer is not None and not self._transfer.reader.ring.is_whole:
            self._leave_alone("it was cut off")
        if self._transfer is not None and self._ring.room > self._ring.capacity // 2:
            self._move(self._transfer)

    def let_go(self) -> None:
        """In a forked child: a ring in hand is the parent's, and its memory goes with it."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.reader.ring.let_go()

    def _look(self) -> None:
        self._due = self._monotonic() + LOOK_EVERY
        deaths, self._spool.deaths = self._spool.deaths, []
        for death in deaths:  # with nothing of what it captured after its sign
            self._report(death.sign, (), death.ring_id, death.next_seq)
        if self._spool.path_of(self._ring) is None:
            self._tell_of_the_killed()
            return
        orphan = self._spool.take_orphan()
        if orphan is None:
            self._tell_of_the_killed()
            return
        self._sign = self._spool.sign_of(orphan)
        self._transfer = Transfer(Reader(orphan), self._ring)

    def _move(self, transfer: Transfer) -> None:
        reader, (most, most_bytes) = transfer.reader, self._at_once
        most = min(most, transfer.room)
        if not most:
            return  # our ring is being written just now
        before = reader.overwritten, reader.damaged
        records = _next(reader, most, most_bytes)
        # Now, and not at the end of this ring: the mark moves beyond them just below.
        self.lost["overwritten"] += reader.overwritten - before[0]
        self.lost["damaged"] += reader.damaged - before[1]
        transfer.move(records)
        self.moved += len(records)
        if not records:
            self._finish(reader)

    def _leave_alone(self, why: str) -> None:
        transfer, self._transfer, self._sign = self._transfer, None, None
        if transfer is not None:
            self._spool.leave_alone(transfer.reader.ring, why)
            transfer.reader.ring.let_go()

    def _finish(self, reader: Reader) -> None:
        orphan, sign = reader.ring, self._sign
        if sign is not None:
            # Killed between the two stores of its last commit, it has not counted that record.
            after = max(orphan.next_seq, reader.next_seq)
            self._report(sign, _payloads(orphan, sign.mark), orphan.ring_id, after)
            self._sign = None
        if self._ring.is_behind:
            return  # at the next turn: the report waits beside our ring
        self._transfer = None
        self._due = 0.0  # there may be more
        self.lost["damaged"] += max(0, orphan.next_seq - reader.next_seq)
        self._spool.unlink(orphan)
        orphan.let_go()
        if self.moved:
            self._notices.add(
                "recovered events",
                f"[sluice] {self.moved} events that an ended process had left are delivered now.",
                level=logging.INFO,
                once=False,
            )

    def _report(
        self, sign: LifeSign, payloads: Iterable[bytes], ring_id: int, next_seq: int
    ) -> None:
        """Say who was killed.  The event's number is one that none in that ring has."""
        payload = report_of_death(sign, payloads, self._connection_id)
        record = Record(payload, next_seq, 0, relayed=False)
        self._ring.append(with_event_id(record, ring_id), relayed=True)
        self.reported += 1
        self._killed.append(f"{sign.worker} (pid {sign.pid})")

    def _tell_of_the_killed(self) -> None:
        """One line, however many there were."""
        killed = self._killed
        if not killed:
            return
        named = ", ".join(killed[:_MOST_NAMED])
        if len(killed) > _MOST_NAMED:
            named += f" and {len(killed) - _MOST_NAMED} more"
        workers = "The worker" if len(killed) == 1 else f"{len(killed)} workers:"
        were = (
            "was killed before this start; what it was"
            if len(killed) == 1
            else ("were killed before this start; what they were")
        )
        if self._notices.add(
            "killed", f"[sluice] {workers} {named} {were} doing is reported.", once=False
        ):
            self._killed = []


def _payloads(ring: Ring, mark: tuple[int, int]) -> Iterator[bytes]:
    reader = Reader(ring, mark)
    while records := _next(reader, _AT_ONCE, _AT_ONCE_BYTES):
        for record in records:
            yield record.payload


def _next(reader: Reader, most: int, most_bytes: int) -> list[Record]:
    """The next records, none at the end.  What is damaged is only skipped at a second look."""
    return reader.read(most, most_bytes) or reader.read(most, most_bytes)
