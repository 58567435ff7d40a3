"""What `import sluice; sluice.init()` adds to a process that already has Celery, in milliseconds.

Each round starts a process of its own per kind and takes the time around the two statements.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import Any

CODE = """
import sys, time, warnings
warnings.simplefilter("ignore")
{patch}
from celery import Celery
app = Celery(broker="memory://")
begun = time.perf_counter()
import sluice
sluice.init(api_key="sk_x", connection_id="6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11")
print((time.perf_counter() - begun) * 1000)
print(int(sluice._client._native is not None))
"""
PATCHES = {
    "plain": "",
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    # Which may be patched after a fork: the main process of a web server.
    "gevent, not patched": "import gevent.monkey",
}


def measure(rounds: int) -> dict[str, dict[str, Any]]:
    """By kind of process: `ms` of each round, and whether the sender's modules were imported."""
    found: dict[str, dict[str, Any]] = {kind: {"ms": []} for kind in PATCHES}
    with tempfile.TemporaryDirectory() as cache:
        environ = os.environ | {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        for number in range(rounds + 1):
            for kind, patch in PATCHES.items():
                milliseconds, sender = subprocess.run(
                    [sys.executable, "-c", CODE.format(patch=patch)],
                    env=environ,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout.split()
                if number:  # the first compiled the modules, which an installed package has done
                    found[kind]["ms"].append(float(milliseconds))
                    found[kind]["sender"] = bool(int(sender))
    return found
