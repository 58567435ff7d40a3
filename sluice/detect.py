"""Which concurrency this process has, and the evidence.

Looks at what is already in ``sys.modules`` and imports nothing: merely importing eventlet
has leaked file descriptors in production (getsentry/sentry-python#4829), and kombu's
``detect_environment()`` caches an answer that Celery then relies on.  Which pool a worker
uses and whether the process is patched are two facts: ``worker_pool = "gevent"`` in a
configuration file runs a gevent pool in an unpatched process.  This module answers the
second; the first is known to the worker.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final, Literal

Library = Literal["gevent", "eventlet", "none"]

#: Modules of which one patched is enough to make the usual `requests` green.
_OF_INTEREST: Final = ("socket", "thread", "select", "ssl", "queue", "time")
_GEVENT_NAMES: Final = {"thread": "threading"}


@dataclass(frozen=True)
class Concurrency:
    """Which library has patched this process, and what."""

    library: Library
    patched: frozenset[str]

    @property
    def is_green(self) -> bool:
        """Whether sockets, locks or threads of this process may belong to an event loop."""
        return self.library != "none"

    @property
    def evidence(self) -> str:
        """One line for a log."""
        if not self.is_green:
            return "neither gevent nor eventlet has patched this process"
        return f"{self.library} has patched {', '.join(sorted(self.patched))}"


def detect(modules: Mapping[str, ModuleType | None] = sys.modules) -> Concurrency:
    """Look now.  The answer can change until the application has finished patching."""
    library: Library
    for library, patched in (
        ("gevent", _gevent_patched(modules)),
        ("eventlet", _eventlet_patched(modules)),
    ):
        if patched:
            return Concurrency(library, patched)
    return Concurrency("none", frozenset())


def may_be_patched_later(modules: Mapping[str, ModuleType | None] = sys.modules) -> bool:
    """Whether gevent's patches are imported and not applied: gunicorn applies them after a fork."""
    return modules.get("gevent.monkey") is not None and not detect(modules).is_green


def _gevent_patched(modules: Mapping[str, ModuleType | None]) -> frozenset[str]:
    is_patched = _question(modules, "gevent.monkey", "is_module_patched")
    return frozenset(name for name in _OF_INTEREST if is_patched(_GEVENT_NAMES.get(name, name)))


def _eventlet_patched(modules: Mapping[str, ModuleType | None]) -> frozenset[str]:
    # eventlet knows no "ssl" or "queue" of their own: they go with "socket" and "thread".
    is_patched = _question(modules, "eventlet.patcher", "is_monkey_patched")
    return frozenset(name for name in _OF_INTEREST if is_patched(name))


def _question(
    modules: Mapping[str, ModuleType | None], module: str, function: str
) -> Callable[[str], bool]:
    found = getattr(modules.get(module), function, None)
    return found if callable(found) else lambda _: False
