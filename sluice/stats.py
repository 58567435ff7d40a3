"""What `sluice.stats()` returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluice.delivery import Delivery
    from sluice.relay import Relay
    from sluice.ring import Ring


@dataclass(frozen=True)
class Stats:
    """Counters of this process and, in a worker's MAIN, of its pool's children.

    ``captured == delivered + dropped + pending`` whenever nothing is being moved right now.
    """

    #: Events seen, whatever became of them.
    captured: int = 0
    #: Events that the API has taken.
    delivered: int = 0
    #: Events that wait, here or in a child's ring.
    pending: int = 0
    #: Events that will not be delivered, by reason: `overwritten` (the buffer was full, the
    #: oldest went), `rejected` and `too_large` (the API refused them), `before_send` (the
    #: application did, or its function failed), `unencodable`, `contended`, `damaged`,
    #: `no_buffer` (it came while the buffer was being made, or there was no memory for one),
    #: `no_room` (an ended process had left it, and its buffer went to make room for another).
    dropped_by: dict[str, int] = field(default_factory=dict)
    #: Requests made to the API, tries included.
    requests: int = 0
    #: False after the API refused the key or was not found, until it takes events again.
    active: bool = False
    #: Where the sender runs: `thread`, `gevent threadpool`, `eventlet tpool`, `parent` (a
    #: prefork child, whose parent sends) or `none` (nothing was captured yet).
    transport: str = "none"
    #: Faults of Sluice itself that were caught.
    faults: int = 0
    #: Runs of `before_send` that failed or answered nonsense, and that took more than 0.1 s.
    before_send_failed: int = 0
    before_send_slow: int = 0

    @property
    def dropped(self) -> int:
        """Events that will not be delivered."""
        return sum(self.dropped_by.values())


def tally(
    ring: Ring,
    relay: Relay | None,
    delivery: Delivery | None,
    transport: str,
    faults: int,
    *,
    lost: Mapping[str, int],
) -> Stats:
    """The counters of a process with this ring; in a prefork child there is no `relay`.

    `lost` are events that never came to a ring of this process, by reason.
    """
    dropped = Counter(ring.skipped_by)
    if relay is None:
        return Stats(
            captured=ring.captured,
            pending=ring.next_seq - ring.settled_seq,
            dropped_by=_some(dropped),
            transport="parent",
            faults=faults,
        )
    dropped.update(relay.lost)
    dropped.update(lost)
    if delivery is not None:
        dropped.update(delivery.dropped_by)
    failed, slow = delivery.reviews if delivery is not None else (0, 0)
    return Stats(
        captured=ring.captured - relay.moved + relay.captured + sum(lost.values()),
        delivered=delivery.delivered if delivery is not None else 0,
        pending=ring.next_seq - ring.settled_seq + relay.waiting,
        dropped_by=_some(dropped),
        requests=delivery.requests if delivery is not None else 0,
        active=delivery is not None and delivery.works,
        transport=transport,
        faults=faults,
        before_send_failed=failed,
        before_send_slow=slow,
    )


def _some(counts: Counter[str]) -> dict[str, int]:
    return {reason: count for reason, count in counts.items() if count}
