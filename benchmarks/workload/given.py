"""What the harness gives a worker, by its environment: everything here is text or JSON.

BENCH_BROKER_URL    the broker
BENCH_POOL          the pool that the worker is started with
BENCH_PEER          the tool to set up, a module ``peer_<name>`` beside this one; empty for none
BENCH_URL           where the tool delivers to, ``http://host:port``; it adds the path itself
BENCH_CONF          Celery settings on top of the app's own, a JSON object
BENCH_OPTIONS       keywords for the tool's own set-up on top of ours, a JSON object
BENCH_STAMPS        where tasks write down when they started and ended; empty where nobody asks
BENCH_TICKS         where a green pool's ticker writes down how late it woke; empty likewise

Nothing of this repository can be imported here: each tool has an environment of its own, and
one of them brings another package that is called ``sluice``.
"""

from __future__ import annotations

import json
import os
from typing import Any

BROKER_URL = os.environ.get("BENCH_BROKER_URL", "memory://")
POOL = os.environ.get("BENCH_POOL", "prefork")
PEER = os.environ.get("BENCH_PEER", "")
URL = os.environ.get("BENCH_URL", "http://127.0.0.1:9")
CONF: dict[str, Any] = json.loads(os.environ.get("BENCH_CONF") or "{}")
OPTIONS: dict[str, Any] = json.loads(os.environ.get("BENCH_OPTIONS") or "{}")
STAMPS = os.environ.get("BENCH_STAMPS", "")
TICKS = os.environ.get("BENCH_TICKS", "")
