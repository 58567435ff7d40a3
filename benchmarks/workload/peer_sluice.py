"""Sluice, of the tree that is measured."""

from __future__ import annotations

from typing import Any

import given

import sluice


def set_up(app: Any) -> None:
    """Call it where the app is made: all there is to do."""
    sluice.init(
        **{
            "api_key": "sk_bench_0123456789abcdef0123456789abcdef",
            "connection_id": "6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11",
            "api_url": f"{given.URL}/api",
        }
        | given.OPTIONS
    )
