"""The sample app, whose workers can be asked through Celery's control for what Sluice counts."""

import dataclasses
from typing import Any

from celery.worker.control import inspect_command

import sluice
from tests.harness.apps.basic import app as app  # noqa: PLC0414


@inspect_command()
def sluice_stats(_state: Any) -> dict[str, Any]:
    """`sluice.stats()`, and whether they add up."""
    stats = sluice.stats()
    adds_up = stats.captured == stats.delivered + stats.dropped + stats.pending
    return {**dataclasses.asdict(stats), "adds_up": adds_up}
