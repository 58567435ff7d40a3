"""Rings of children -> the ring of their parent, so that there is one ring to send from.

A prefork child writes into a ring of its own and does nothing else.  Here, on the parent's
sender thread, its records move into the parent's ring.  They get their event id on the way,
from the ring they were captured in: a record that is moved twice, because this process was
killed between the copy and the mark, has the same id twice and counts once.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from sluice.batch import with_event_id
from sluice.ring import Reader, Ring

#: Records moved per child before the next child's turn, and their bytes.
_AT_ONCE: Final = 1_000
_AT_ONCE_BYTES: Final = 1024 * 1024
#: Seconds from a ring's making until its child, in its first moment, writes its number there.
_LONGEST_BIRTH: Final = 60.0


class Relay:
    """Moves what children captured into `ring`, and lets go of the rings of the dead.

    `add()` may be called from any thread, right before a fork; everything else belongs to
    the sender's thread.  `discard` gets a ring that is empty and whose child has ended.
    """

    def __init__(
        self,
        ring: Ring,
        discard: Callable[[Ring], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = ring
        self._discard = discard
        self._monotonic = monotonic
        self._new: deque[tuple[Ring, float]] = deque()
        self._made: dict[int, float] = {}
        self._readers: list[Reader] = []
        #: Records moved so far.
        self.moved = 0
        # Of children that have ended: what they captured, and what became of it.
        self._ended_captured = 0
        self._ended_skipped: dict[str, int] = {}
        self._ended_overwritten = 0
        self._ended_damaged = 0

    def add(self, ring: Ring) -> None:
        """From now on, move what is written to `ring`."""
        self._new.append((ring, self._monotonic()))

    def move(self) -> None:
        """Move what there is.  Called at every turn of the sender."""
        while self._new:
            ring, made = self._new.popleft()
            self._readers.append(Reader(ring))
            self._made[ring.ring_id] = made
        for reader in list(self._readers):
            # Look for the end before the last read: nothing is written after it.
            ended = _has_ended(reader.ring) or self._never_began(reader.ring)
            self._move_from(reader, to_the_end=ended)
            if ended:
                self._move_from(reader, to_the_end=True)  # what is damaged gets a second look
                self._let_go(reader)

    def let_go(self, kept: Ring | None) -> None:
        """In a forked child: close the rings of its siblings, and keep its own.

        Or their memory would stay for as long as this child, whose frames of the sender's
        thread, which never go on, hold them.
        """
        for ring in self.rings:
            if ring is not kept:
                ring.let_go()

    def _move_from(self, reader: Reader, *, to_the_end: bool) -> None:
        while records := reader.read(_AT_ONCE, _AT_ONCE_BYTES):
            for record in records:
                self._ring.append(with_event_id(record, reader.ring.ring_id), relayed=True)
            self.moved += len(records)
            reader.settle(records[-1])
            if not to_the_end and len(records) < _AT_ONCE:
                break

    def _never_began(self, ring: Ring) -> bool:
        """Whether its child would have said who it is by now: the fork has failed, say."""
        made = self._made.get(ring.ring_id, inf)
        return not ring.writer_pid and self._monotonic() - made > _LONGEST_BIRTH

    def _let_go(self, reader: Reader) -> None:
        ring = reader.ring
        lost = ring.next_seq - reader.next_seq  # damage at the very end
        self._ended_captured += ring.captured
        self._ended_overwritten += reader.overwritten
        self._ended_damaged += reader.damaged + lost
        for reason, count in ring.skipped_by.items():
            self._ended_skipped[reason] = self._ended_skipped.get(reason, 0) + count
        self._readers.remove(reader)
        self._made.pop(ring.ring_id, None)
        self._discard(ring)

    @property
    def rings(self) -> list[Ring]:
        """The rings of the children that are not known to have ended."""
        new = [ring for ring, _ in list(self._new)]
        return [*(reader.ring for reader in list(self._readers)), *new]

    @property
    def captured(self) -> int:
        """Events captured in children, also in those that have ended."""
        return self._ended_captured + sum(ring.captured for ring in self.rings)

    @property
    def waiting(self) -> int:
        """Records in children's rings that were not moved yet."""
        return sum(ring.next_seq - ring.settled_seq for ring in self.rings)

    @property
    def lost(self) -> dict[str, int]:
        """Events of children that never came here, by reason."""
        readers = list(self._readers)
        lost = {
            "overwritten": self._ended_overwritten + sum(r.overwritten for r in readers),
            "damaged": self._ended_damaged + sum(r.damaged for r in readers),
        }
        for counts in (self._ended_skipped, *(ring.skipped_by for ring in self.rings)):
            for reason, count in counts.items():
                lost[reason] = lost.get(reason, 0) + count
        return lost


def _has_ended(ring: Ring) -> bool:
    """Whether the process that writes this ring is gone.  One that has not begun is not.

    A process id that was reused only keeps the ring a little longer.
    """
    pid = ring.writer_pid
    if not pid:
        return False
    try:
        # A child that nobody has reaped yet still has its number.  This does not reap it.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
    except ChildProcessError:
        pass  # reaped, or never a child of ours
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return True  # none has the number, or another user's process has it by now
    return False
