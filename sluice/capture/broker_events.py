"""`init(celery_events=True)`: turn Celery's own events on, for a consumer on the broker.

Sluice needs none of them.  A setting that the user has explicitly made False stays False.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import signals
from celery._state import _get_active_apps, connect_on_app_finalize

_WORKER_SETTING = "worker_send_task_events"
_PRODUCER_SETTING = "task_send_sent_event"


def turn_on(warn: Callable[[str], object]) -> None:
    """Turn them on, now and for workers and apps still to come.  `warn` gets conflicts."""

    def on_worker(conf: Any = None, **_: object) -> None:
        # Before the worker reads its settings, after the app has loaded them.
        _set(conf, _WORKER_SETTING, warn)
        _set(conf, _PRODUCER_SETTING, warn)

    def on_app(app: Any) -> None:
        _set(app.conf, _PRODUCER_SETTING, warn)

    signals.celeryd_init.connect(on_worker, weak=False, dispatch_uid="sluice.celeryd_init")
    for app in list(_get_active_apps()):
        if app.finalized:
            on_app(app)
    connect_on_app_finalize(on_app)


def _set(conf: Any, setting: str, warn: Callable[[str], object]) -> None:
    if conf[setting]:
        return
    if conf.value_set_for(setting):
        warn(
            f"[sluice] celery_events=True, but {setting} is explicitly False and stays so."
            " Remove one of the two; Sluice itself needs neither."
        )
        return
    conf[setting] = True
