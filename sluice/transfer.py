"""Records from another ring into ours, so that a kill at any moment loses none.

The mark in the source moves once they are in the target's memory, and not beside it, where
they wait while another thread writes.  Until then a killed process leaves them in the source;
in between in both, with the same event id, which they get on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sluice.batch import with_event_id
from sluice.ring import Reader, Record, Ring


class Transfer:
    """From `reader` into `target`."""

    def __init__(self, reader: Reader, target: Ring) -> None:
        self.reader: Final = reader
        self._target = target
        #: The last record that was moved, while it may wait beside the target.
        self._last: Record | None = None

    @property
    def room(self) -> int:
        """How many records may be moved now; 0 while the target is being written."""
        return self._target.room_beside if self._has_settled() else 0

    def move(self, records: Sequence[Record]) -> bool:
        """Move what was read.  False: it waits beside the target, and is settled later."""
        for record in records:
            self._target.append(with_event_id(record, self.reader.ring.ring_id), relayed=True)
            self._last = record
        return self._has_settled()

    def _has_settled(self) -> bool:
        if self._last is not None:
            if self._target.is_behind:
                return False
            self.reader.settle(self._last)
            self._last = None
        return True
