"""The watched app on a Celery of the future: today's own source, edited where Sluice listens.

The start of a task is told with fields that nobody knows, and followed by an event that nobody
knows; a failure is told without its fields; every signal carries a keyword more.
"""

import re
from pathlib import Path
from typing import Any

from celery.utils.dispatch import Signal
from celery.worker import request, strategy

_EDITS = {
    r"self\.send_event\('task-started'\)": (
        "self.send_event('task-started', cpu_seconds=1.5, placement={'zone': 'canary'},"
        " args=['canary']); self.send_event('task-warmed', degrees=3)"
    ),
    r"'task-failed',\s+exception=.*?traceback=[\w.]+,\s*\)": "'task-failed')",
}

_source = Path(request.__file__).read_text()
for _today, _tomorrow in _EDITS.items():
    _source, _edited = re.subn(_today, _tomorrow, _source, flags=re.DOTALL)
    if not _edited:
        raise RuntimeError(f"there is no {_today} in this Celery")
exec(compile(_source, request.__file__, "exec"), vars(request))
strategy.create_request_cls = request.create_request_cls

_send = Signal.send


def _send_more(self: Signal, sender: Any, **named: Any) -> Any:
    return _send(self, sender, **named, of_the_future="canary")


Signal.send = _send_more

from tests.faults.watched import app as app  # noqa: E402, PLC0414  after the edits
