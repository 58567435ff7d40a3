"""The island: modules that no monkey patch has touched, for the sender's thread alone.

Guarantees
----------
* In an unpatched process these are the ordinary modules: nothing is copied.
* In a patched process they are private copies.  Their sockets block, their locks are the
  operating system's, their DNS look-ups happen in the calling thread.  The thread that
  uses them never gets a gevent or eventlet hub.
* The application's own modules are what they were before, object for object.

What this relies on (tests: ``tests/test_native.py``)
-----------------------------------------------------
* gevent and eventlet patch *attributes* of Python-level modules in place.  Importing such
  a module again executes its file again, without the patches, and importing a built-in
  one (``time``, ``_thread``, ``select``) gives a new module object with the C functions.
* A copy must be executed under its real name, with that name in ``sys.modules``: ``enum``
  looks its caller's module up there by name while ``socket`` loads.  So the names are
  taken out, everything is imported, and the names are put back.
* A module that is imported for the first time while the copies load (`charset_normalizer`,
  perhaps `subprocess`) belongs to the island too: it has seen the copies.  The application
  gets its own when it asks for it.
* Both halves of a pair come from the same copy: an original ``SSLContext`` over a patched
  socket recurses without end.
* The copying happens under the global import lock, on the thread that calls `load()`,
  which must be the application's (the hub's) and never the sender's: an import lock held
  by the sender at a fork would hang the child.  It never switches greenlets.
"""

from __future__ import annotations

import _imp
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from sluice.detect import Concurrency

#: What is copied, with everything below each name: all that holds a patched primitive or
#: caches one, and all that the sender uses of it.  `os`, `email`, `json` and the C
#: extensions behind these modules are shared: they hold none.
_COPIED: Final = (
    *("_queue", "_socket", "_thread", "asyncio", "concurrent", "http", "logging", "queue"),
    *("select", "selectors", "socket", "ssl", "tempfile", "threading", "time"),
    *("urllib.error", "urllib.request", "urllib.response"),
    *("requests", "tenacity", "urllib3"),
)
#: Not found while the copies load: tenacity would import tornado where it is installed,
#: and with it a second event loop's worth of modules; we use neither.
_HIDDEN: Final = ("tornado", "trio")


_ABSENT: Final = object()


@dataclass(frozen=True)
class Native:
    """The modules that the sender may use.  Ordinary, or private copies."""

    requests: Any
    tenacity: Any
    threading: Any
    time: Any
    select: Any
    socket: Any


_NAMES: Final = ("requests", "tenacity", "threading", "time", "select", "socket")


def load(concurrency: Concurrency) -> Native:
    """The modules for a sender in a process with this concurrency.

    Ordinary imports where nothing is patched.  Otherwise 70 to 150 ms for the copies.
    """
    if not concurrency.is_green:
        return Native(**{name: importlib.import_module(name) for name in _NAMES})
    with _names_taken_out():
        return Native(**{name: importlib.import_module(name) for name in _NAMES})


@contextmanager
def _names_taken_out() -> Iterator[None]:
    """Run the block without the modules to be copied, then put the application's back."""
    _imp.acquire_lock()
    try:
        modules = sys.modules
        before = dict(modules)
        for name in _to_copy():
            del modules[name]
        for name in _HIDDEN:
            modules[name] = None  # type: ignore[assignment]  # "import" then says: not there
        try:
            yield
        finally:
            changed = [name for name in modules if before.get(name, _ABSENT) is not modules[name]]
            for name in changed:
                del modules[name]
            modules.update(before)
            for name in changed:
                _put_back_attribute(name, before.get(name))
    finally:
        _imp.release_lock()


def _to_copy() -> list[str]:
    return [name for name in sys.modules if name.startswith(_PREFIXES) or name in _COPIED]


_PREFIXES: Final = tuple(f"{name}." for name in _COPIED)


def _put_back_attribute(name: str, module: ModuleType | None) -> None:
    """Undo what importing a copy did to a package that is not copied (`urllib`)."""
    package, _, attribute = name.rpartition(".")
    parent = sys.modules.get(package)
    if parent is None:
        return
    if module is not None:
        setattr(parent, attribute, module)
    elif hasattr(parent, attribute):
        delattr(parent, attribute)
