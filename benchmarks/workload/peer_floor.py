"""The floor of a capture: Celery's callbacks come in, and prepared bytes are written down.

Nothing is read from the request, nothing is encoded and nothing is sent: each event is 480 bytes
that were there before, appended to a ring that nobody reads.  What this costs more than no tool at
all is what three calls and three appends cost, and no capture in plain Python can be cheaper.
"""

from __future__ import annotations

import mmap
from typing import Any

import peer_sluice

from sluice.capture.request import TaskObserver
from sluice.ring import Ring

_EVENT = b"x" * 480


def set_up(app: Any) -> None:
    """Sluice, without all but the last step of its capture."""
    ring = Ring(mmap.mmap(-1, 8 << 20), ring_id=1)

    def append(*_: Any) -> None:
        ring.append(_EVENT)

    for name in ("observe", "received"):
        setattr(TaskObserver, name, append)
    peer_sluice.set_up(app)
