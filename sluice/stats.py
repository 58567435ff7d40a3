"""What `sluice.stats()` returns."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    #: oldest went), `rejected` and `too_large` (the API refused them), `unencodable`,
    #: `contended`, `damaged`.
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

    @property
    def dropped(self) -> int:
        """Events that will not be delivered."""
        return sum(self.dropped_by.values())
