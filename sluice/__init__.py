"""Sluice: the complete life of every Celery task and worker, delivered to an HTTP API.

Call `sluice.init()` where the Celery app is made.  That is all there is to do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sluice._version import __version__
from sluice.config import SluiceConfigError, is_strict, message, resolve
from sluice.notices import Notices
from sluice.stats import Stats

if TYPE_CHECKING:
    from sluice.client import Client

__all__ = ["SluiceConfigError", "Stats", "__version__", "flush", "init", "shutdown", "stats"]

_client: Client | None = None
_notices = Notices()


def init(
    *,
    api_key: str | None = None,
    connection_id: str | None = None,
    api_url: str | None = None,
    dev: bool | str | None = None,
    strict: bool | None = None,
    enabled: bool | None = None,
    environment: str | None = None,
    flush_interval: float | None = None,
    buffer_bytes: int | None = None,
    spool_dir: str | os.PathLike[str] | None = None,
    shutdown_timeout: float | None = None,
    request_timeout: float | tuple[float, float] | None = None,
    celery_events: bool | None = None,
    capture_tracebacks: bool | None = None,
    before_send: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
    debug: bool | None = None,
) -> None:
    """Begin to capture every task and worker of this process and of its children.

    A parameter that is not given comes from its variable (``SLUICE_API_KEY``,
    ``SLUICE_FLUSH_INTERVAL``, ...), and then from its default:

    * `api_key` (required): ``sk_...``.
    * `connection_id` (required): a UUID.
    * `api_url`: base URL, ``https://sluice.sh/api``; events go to ``{api_url}/ingest``.
    * `dev`: False; True or a URL sends to the collector of ``sluice dev`` instead, which needs
      neither key nor connection: ``SLUICE_DEV=1`` in the environment is all.  No key is sent.
    * `strict`: True; False logs a bad setting and stays off instead of raising.
    * `enabled`: True; False does nothing at all, for tests.
    * `environment`: a tag that every event carries, such as ``production``.
    * `flush_interval`: 1.0 second, the longest time that an event waits to be sent.
    * `buffer_bytes`: 8 MiB for the events that wait; the oldest go first.
    * `spool_dir`: the folder for these, ``/dev/shm/sluice-<uid>``.  It should be on tmpfs: a
      write to a disk can make a task wait.
    * `shutdown_timeout`: 2.0 seconds, the most that is added to the end of a process.
    * `request_timeout`: seconds to connect and to wait for an answer, ``(5, 10)``.
    * `celery_events`: False; True also turns Celery's own events on, for other consumers.
    * `capture_tracebacks`: True; False sends the error without its traceback.
    * `before_send`: a function of the event, a dict as it is sent, that returns it, changed
      or not, or None to keep it back.  It runs on the sender's thread, never in a task: in a
      green process it must not touch the application's sockets, locks or logging.  Where it
      raises, that event is not sent.  It has no variable.
    * `debug`: False; True logs what was detected.

    Raises :class:`SluiceConfigError` for a setting that is missing or malformed, and nothing
    else: what else goes wrong is logged, and the worker runs as if Sluice were not installed.
    A second call logs a warning and changes nothing.
    """
    global _client  # noqa: PLW0603  one process, one Sluice
    given = {name: value for name, value in locals().items() if value is not None}
    if _client is not None:
        _notices.add(
            "second init",
            message(
                "sluice.init() was called a second time",
                "The first call stays in force; remove the other",
            ),
        )
        _notices.log()
        return
    try:
        settings = resolve(given)
        if settings is None:
            return
        from sluice.client import Client

        client = Client(settings, _notices)
        client.connect()
        _client = client
    except SluiceConfigError as error:
        if is_strict(given):
            raise
        _notices.add("setting", str(error), level=logging.ERROR)
    except Exception as error:  # noqa: BLE001  rule 1
        _notices.fault("init()", error)
        _notices.add(
            "no integration",
            "[sluice] Failed to set up Celery integration. Monitoring will not be active.",
            level=logging.ERROR,
        )
    _notices.log_when_heard()


def flush(timeout: float | None = None) -> bool:
    """Wait until what was captured so far is delivered.  True if it is.

    At most `timeout` seconds, by default `shutdown_timeout`.  In a prefork child: until the
    worker's MAIN process has taken it over.  Never needed; for scripts and tests.
    """
    return _client.flush(timeout) if _client is not None else True


def shutdown(timeout: float | None = None) -> bool:
    """Deliver what there is, end the sender and capture no more.  True if all was delivered.

    At most `timeout` seconds, by default `shutdown_timeout`.  Happens by itself at exit.
    """
    return _client.shutdown(timeout) if _client is not None else True


def stats() -> Stats:
    """What was captured, delivered, dropped, and waits."""
    return _client.stats() if _client is not None else Stats(faults=_notices.faults)
