"""Rings of children -> the ring of their parent, so that there is one ring to send from.

A prefork child writes into a ring of its own and does nothing else.  Here, on the parent's
sender thread, its records move into the parent's ring.  They get their event id on the way,
from the ring they were captured in: a record that is moved twice, because this process was
killed between the copy and the mark, has the same id twice and counts once
(:mod:`sluice.transfer`).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Final, NamedTuple

from sluice.ring import Reader, Ring
from sluice.transfer import Transfer

#: Bytes moved per child before the next child's turn; how many records the ring says.
_AT_ONCE_BYTES: Final = 1024 * 1024
#: Seconds from a ring's making until its child, in its first moment, writes its number there.
_LONGEST_BIRTH: Final = 60.0


class _Children(NamedTuple):
    """All children so far.  Replaced as one, so that nobody counts one twice, or not at all."""

    transfers: tuple[Transfer, ...] = ()
    #: Of those that have ended: what they captured, and what became of it.
    ended_captured: int = 0
    ended_lost: Mapping[str, int] = {"overwritten": 0, "damaged": 0}


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
        self._children = _Children()
        #: Records moved so far.
        self.moved = 0

    def add(self, ring: Ring) -> None:
        """From now on, move what is written to `ring`."""
        self._new.append((ring, self._monotonic()))

    def move(self) -> None:
        """Move what there is.  Called at every turn of the sender."""
        while self._new:
            ring, made = self._new[0]
            self._made[ring.ring_id] = made
            children = self._children
            transfer = Transfer(Reader(ring), self._ring)
            self._children = children._replace(transfers=(*children.transfers, transfer))
            self._new.popleft()
        for transfer in self._children.transfers:
            ring = transfer.reader.ring
            # Look for the end before the last read: nothing is written after it.
            ended = _has_ended(ring) or self._never_began(ring)
            # What is damaged gets a second look.
            if self._moves(transfer, to_the_end=ended) and ended and self._moves(transfer):
                self._let_go(transfer)

    def let_go(self, kept: Ring | None) -> None:
        """In a forked child: close the rings of its siblings, and keep its own.

        Or their memory would stay for as long as this child, whose frames of the sender's
        thread, which never go on, hold them.
        """
        for ring in self.rings:
            if ring is not kept:
                ring.let_go()

    def _moves(self, transfer: Transfer, *, to_the_end: bool = True) -> bool:
        """Move a part, or all.  False: our ring is being written just now, and some wait."""
        while most := transfer.room:
            records = transfer.reader.read(most, _AT_ONCE_BYTES)
            is_there = transfer.move(records)
            self.moved += len(records)
            if not is_there:
                return False
            if not records or not (to_the_end or len(records) == most):
                return True
        return False

    def _never_began(self, ring: Ring) -> bool:
        """Whether its child would have said who it is by now: the fork has failed, say."""
        made = self._made.get(ring.ring_id, inf)
        return not ring.writer_pid and self._monotonic() - made > _LONGEST_BIRTH

    def _let_go(self, transfer: Transfer) -> None:
        reader, children = transfer.reader, self._children
        ring = reader.ring
        lost = dict(children.ended_lost)
        _add(lost, _lost_of(reader))
        lost["damaged"] += ring.next_seq - reader.next_seq  # at the very end
        self._children = _Children(
            tuple(other for other in children.transfers if other is not transfer),
            children.ended_captured + ring.captured,
            lost,
        )
        self._made.pop(ring.ring_id, None)
        self._discard(ring)

    def _new_rings(self, children: _Children) -> list[Ring]:
        known = {transfer.reader.ring.ring_id for transfer in children.transfers}
        return [ring for ring, _ in list(self._new) if ring.ring_id not in known]

    def _living(self, children: _Children) -> list[Ring]:
        known = [transfer.reader.ring for transfer in children.transfers]
        return [*known, *self._new_rings(children)]

    @property
    def rings(self) -> list[Ring]:
        """The rings of the children that are not known to have ended."""
        return self._living(self._children)

    @property
    def captured(self) -> int:
        """Events captured in children, also in those that have ended."""
        children = self._children
        return children.ended_captured + sum(ring.captured for ring in self._living(children))

    @property
    def waiting(self) -> int:
        """Records in children's rings that were not moved yet."""
        return sum(ring.next_seq - ring.settled_seq for ring in self.rings)

    @property
    def lost(self) -> dict[str, int]:
        """Events of children that never came here, by reason."""
        children = self._children
        lost = dict(children.ended_lost)
        for transfer in children.transfers:
            _add(lost, _lost_of(transfer.reader))
        for ring in self._new_rings(children):
            _add(lost, ring.skipped_by)
        return lost


def _lost_of(reader: Reader) -> dict[str, int]:
    return {
        "overwritten": reader.overwritten,
        "damaged": reader.damaged,
        **reader.ring.skipped_by,
    }


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for reason, count in more.items():
        counts[reason] = counts.get(reason, 0) + count


def _has_exited(pid: int) -> bool:
    """Whether a child of ours has ended, reaped or not; never where nobody can say."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13: it is seen when it was reaped
        return False
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _has_ended(ring: Ring) -> bool:
    """Whether the process that writes this ring is gone.  One that has not begun is not.

    A process id that was reused only keeps the ring a little longer.
    """
    pid = ring.writer_pid
    if not pid:
        return False
    try:
        # A child that nobody has reaped yet still has its number.  This does not reap it.
        if _has_exited(pid):
            return True
    except ChildProcessError:
        pass  # reaped, or never a child of ours
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return True  # none has the number, or another user's process has it by now
    return False
