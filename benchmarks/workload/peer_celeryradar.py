"""celeryradar-sdk."""

from __future__ import annotations

from typing import Any

import celeryradar_sdk
import given


def set_up(app: Any) -> None:
    """Connect it; it takes the app from Celery's current one."""
    celeryradar_sdk.connect(
        **{"api_key": "cr_bench", "app_name": "bench", "endpoint": given.URL} | given.OPTIONS
    )
