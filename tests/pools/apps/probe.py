"""The harness's sample app, watched: which functions of Sluice run in a pool's child.

Every child has a profile function from before its first task on, so also around the tasks. The task
`probe.calls` tells what was called since it was last asked.
"""

import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from celery.signals import worker_process_init

from tests.harness.apps.basic import app

_spec = find_spec("sluice")
assert _spec is not None
assert _spec.origin is not None
_SLUICE = str(Path(_spec.origin).parent) + "/"
_calls: list[str] = []


def _watch(frame: FrameType, event: str, _: Any) -> None:
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(_SLUICE):
        _calls.append(f"{code.co_filename.removeprefix(_SLUICE)}:{code.co_name}")


@worker_process_init.connect(weak=False)
def begin(**_: Any) -> None:
    sys.setprofile(_watch)
    threading.setprofile(_watch)


@app.task(name="probe.calls")
def calls() -> list[str]:
    """Sluice's functions that ran in this child since this was last asked."""
    told = _calls.copy()
    _calls.clear()
    return told
