"""stemtrace: it publishes to the broker, and BENCH_URL is of no use to it.

With its defaults: ``publish_received``, which tells when the worker took a message, is off in
them, and ``BENCH_OPTIONS={"publish_received": true}`` turns it on.
"""

from __future__ import annotations

from typing import Any

import given
import stemtrace


def set_up(app: Any) -> None:
    """Connect it to the app."""
    stemtrace.init_worker(app, **given.OPTIONS)
