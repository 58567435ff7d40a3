"""What the detector sees, and what a worker of an app would be."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

import sluice
from sluice import detect
from sluice.commands.checks import Check
from sluice.redact import redact

#: Celery's variable for ``--pool``.
_POOL_VARIABLE: Final = "CELERY_WORKER_POOL"
#: Pools of which the name alone tells where events are sent from.
_PLAIN: Final[Mapping[str, str]] = {
    "prefork": "a thread of MAIN (transport thread); its children send nothing themselves",
    "processes": "a thread of MAIN (transport thread); its children send nothing themselves",
    "threads": "a thread of MAIN (transport thread)",
    "solo": "a thread of MAIN (transport thread)",
}
_GREEN: Final = frozenset(("gevent", "eventlet"))


class App(NamedTuple):
    """What the import of an app showed."""

    checks: list[Check]
    #: What it gave to `sluice.init()`; None: that was not called, or the import failed.
    given: dict[str, object] | None


def detected() -> Check:
    """Which concurrency this process has."""
    now = detect.detect()
    transport = now.library if now.is_green else "thread"
    found = f"{now.evidence}: events are sent by transport {transport}"
    if detect.may_be_patched_later():
        found += "; gevent's patches are imported, and may be applied later"
    return Check("detector", "ok", found)


def look(name: str, environ: Mapping[str, str] = os.environ) -> App:
    """Import an app as ``celery -A`` does, and say what a worker of it would be.

    `init()` only notes what it is given meanwhile: this process is not to be reported on.
    What the app prints goes to stderr.
    """
    calls: list[dict[str, object]] = []
    try:
        with _noting(calls), contextlib.redirect_stdout(sys.stderr):
            from celery.app.utils import find_app

            app = find_app(name)
            pool = environ.get(_POOL_VARIABLE, "").strip() or app.conf.worker_pool
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever an app does when imported
        told = redact(f"{type(error).__name__}: {error}").strip().partition("\n")[0]
        fix = f"make `celery -A {name} report` work first, in this folder"
        return App([Check("app", "failed", f"{name} cannot be loaded: {told}", fix)], None)
    return App([_init(name, calls), _worker(str(pool), environ)], calls[0] if calls else None)


@contextlib.contextmanager
def _noting(calls: list[dict[str, object]]) -> Iterator[None]:
    real = sluice.init
    signature = inspect.signature(real)

    def init(*args: Any, **given: Any) -> None:
        calls.append(dict(signature.bind(*args, **given).arguments))

    sluice.init = init
    try:
        yield
    finally:
        sluice.init = real


def _init(name: str, calls: list[dict[str, object]]) -> Check:
    if not calls:
        return Check(
            "app",
            "failed",
            f"{name} was loaded and did not call sluice.init()",
            "call it where the app is made: import sluice; sluice.init()",
        )
    if len(calls) > 1:
        text = f"{name} calls sluice.init() {len(calls)} times, and the first one counts"
        return Check("app", "warning", text, "remove the others")
    return Check("app", "ok", f"{name} was loaded and calls sluice.init()")


def _worker(pool: str, environ: Mapping[str, str]) -> Check:
    source = _POOL_VARIABLE if environ.get(_POOL_VARIABLE, "").strip() else "worker_pool"
    if pool in _PLAIN:
        return Check("worker", "ok", f"pool {pool} ({source}): {_PLAIN[pool]}")
    if pool not in _GREEN:
        text = f"pool {pool} ({source}) is none of Celery's: Sluice goes by what is patched"
        return Check("worker", "ok", text)
    if find_spec(pool) is None:
        text = f"pool {pool} ({source}), and {pool} is not installed"
        return Check("worker", "failed", text, f'pip install "sluice-sdk[{pool}]"')
    now = detect.detect()
    if now.library == pool:
        return Check("worker", "ok", f"pool {pool} ({source}): a native thread (transport {pool})")
    return Check(
        "worker",
        "warning",
        f"pool {pool} ({source}), and nothing is patched by that: events are sent by a thread"
        " (transport thread), and with Celery 5.7 no task runs",
        f"start the worker with -P {pool}, which patches before anything else is imported",
    )
