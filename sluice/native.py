"""The island: modules that no monkey patch has touched, for the sender's thread alone.

Guarantees
----------
* In an unpatched process these are the ordinary modules: nothing is copied.
* In a patched process they are private copies.  Their sockets block, their locks are the
  operating system's, their DNS look-ups happen in the calling thread.  The thread that
  uses them never gets a gevent or eventlet hub.
* Copies that were made before gevent patches stay what they are: it patches what it finds
  in ``sys.modules``, the application's.  (eventlet also makes all locks green that it finds
  in memory.)
* The application's own modules are what they were before, object for object.

What this relies on (tests: ``tests/test_native.py``)
-----------------------------------------------------
* gevent and eventlet patch *attributes* of Python-level modules in place.  Importing such
  a module again executes its file again, without the patches, and importing a built-in
  one (``time``, ``_thread``, ``select``) gives a new module object with the C functions.
* `urllib3` imports inside functions too, at every response.  `import` is a call of the
  `__import__` in the `__builtins__` of the module that a function was defined in, so each
  copy gets a dictionary of its own there, whose `__import__` knows the island.  Without it
  the sender would import the application's, green, modules on its own thread.
* A copy must be executed under its real name, with that name in ``sys.modules``: ``enum``
  looks its caller's module up there by name while ``socket`` loads.  So the names are
  taken out, everything is imported, and the names are put back.
* A module that is imported for the first time while the copies load (`certifi`,
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
import builtins
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import Loader, SourceLoader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import resolve_name
from types import ModuleType
from typing import Any, Final

from sluice.detect import Concurrency

#: What is copied, with everything below each name: all that holds a patched primitive or
#: caches one, and the packages that such modules are part of, whole: a copy of
#: `http.client` says `email.parser` long after it was imported.  `os`, `json` and the C
#: extensions behind these modules are shared: nobody patches them, and `_ssl` accepts the
#: sockets of the one `_socket` that it knows.
_COPIED: Final = (
    *("_thread", "asyncio", "concurrent", "email", "http", "logging", "queue", "select"),
    *("selectors", "socket", "ssl", "tempfile", "threading", "time", "urllib"),
    *("requests", "socks", "tenacity", "urllib3"),
)
_PREFIXES: Final = tuple(f"{name}." for name in _COPIED)
#: Not found while the copies load: tenacity would import tornado where it is installed,
#: and with it a second event loop's worth of modules; we use neither.
_HIDDEN: Final = ("tornado", "trio", "chardet")
#: In the place of a module that is asked for while the copies load, and of this version: requests
#: wants a detector of encodings, 3 MiB with its tables, for texts, of which we read none.
_STAND_IN: Final = ("charset_normalizer", "3.0.0")


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
    logging: Any
    is_island: bool = False


_NAMES: Final = ("requests", "tenacity", "threading", "time", "select", "socket", "logging")


def load(concurrency: Concurrency) -> Native:
    """The modules for a sender in a process with this concurrency.

    Ordinary imports where nothing is patched.  Otherwise 70 to 150 ms for the copies.
    """
    return load_island() if concurrency.is_green else _import_all()


def load_island() -> Native:
    """The copies, also for a process that is not patched yet.  70 to 150 ms."""
    with _Island():
        return _import_all(is_island=True)


def _import_all(*, is_island: bool = False) -> Native:
    modules = {name: importlib.import_module(name) for name in _NAMES}
    return Native(**modules, is_island=is_island)


class _Island:
    """Within the block, imports make copies; afterwards everything is as it was.

    Also the first finder on `sys.meta_path` meanwhile, and what the copies' `import` asks.
    """

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}
        self._real_import = builtins.__import__

    def __enter__(self) -> None:
        _imp.acquire_lock()
        self._before = dict(sys.modules)
        for name in _to_copy():
            del sys.modules[name]
        for name in _HIDDEN:
            sys.modules[name] = None  # type: ignore[assignment]  # "import": there is none
        name, version = _STAND_IN
        sys.modules[name] = stand_in = ModuleType(name)
        stand_in.__version__ = version  # type: ignore[attr-defined]
        sys.meta_path.insert(0, self)  # a finder, in all that is asked of one

    def __exit__(self, *error: object) -> None:
        sys.meta_path.remove(self)
        before, modules = self._before, sys.modules
        changed = [name for name in modules if before.get(name, _ABSENT) is not modules[name]]
        for name in changed:
            module = modules.pop(name)
            if isinstance(module, ModuleType):
                self._modules[name] = module
        modules.update(before)
        for name in changed:
            package, _, attribute = name.rpartition(".")
            # A package that was copied itself has not been touched.
            if before.get(name) is not None and package in before and package not in changed:
                setattr(before[package], attribute, before[name])
        _imp.release_lock()

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find a Python file as the others would, and have it loaded with our builtins."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceLoader):
            spec.loader = _LoaderOfCopies(spec.loader, self.builtins)
        return spec

    def _import(
        self,
        name: str,
        globals: Any = None,  # noqa: A002  the builtin's own names, all five
        locals: Any = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What ``import`` does in a copy.  While the copies load, what it always does."""
        absolute = name
        if level:
            absolute = resolve_name("." * level + name, globals["__package__"])
        module = self._modules.get(absolute)
        if module is None:
            return self._real_import(name, globals, locals, fromlist or (), level)
        if fromlist:
            return module
        return self._modules.get(absolute.partition(".")[0], module)


class _LoaderOfCopies(Loader):
    """Loads a Python file into a module that has its own builtins from the start."""

    def __init__(self, loader: SourceLoader, own_builtins: dict[str, Any]) -> None:
        self._loader = loader
        self._builtins = own_builtins

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__dict__["__builtins__"] = self._builtins
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader  # resources are looked for there
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)


def _to_copy() -> list[str]:
    return [name for name in sys.modules if name.startswith(_PREFIXES) or name in _COPIED]
