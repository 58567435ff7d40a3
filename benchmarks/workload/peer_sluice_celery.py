"""sluice-celery, another product's SDK, whose import name is ``sluice`` too."""

from __future__ import annotations

import os
from typing import Any

import given

import sluice


def set_up(app: Any) -> None:
    """Call it where the app is made; its address can be given by a variable only."""
    os.environ["SLUICE_BASE_URL"] = given.URL
    sluice.init(
        **{
            "api_key": "sk_bench_0123456789abcdef0123456789abcdef",
            "connection_id": "6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11",
        }
        | given.OPTIONS
    )
