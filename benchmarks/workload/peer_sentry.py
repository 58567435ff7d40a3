"""sentry-sdk with its Celery integration, every task traced.

Set up in ``celeryd_init``, where its documentation has it for Celery without Django.  The
monitor that samples down by itself under load is off, because ``traces_sample_rate`` would not
be 1.0 then; the queue of 100 envelopes and all else are the defaults.
"""

from __future__ import annotations

from typing import Any

import given
import sentry_sdk
from celery import signals
from sentry_sdk.integrations.celery import CeleryIntegration


def set_up(app: Any) -> None:
    """Initialise it when the worker starts; its children inherit it."""
    signals.celeryd_init.connect(_init, weak=False)


def _init(**_: Any) -> None:
    options = {
        "dsn": given.URL.replace("://", "://bench@") + "/1",
        "traces_sample_rate": 1.0,
        "enable_backpressure_handling": False,
    }
    sentry_sdk.init(**options | given.OPTIONS, integrations=[CeleryIntegration()])
