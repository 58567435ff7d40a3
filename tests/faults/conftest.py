"""Fixtures of the fault tests."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.address import Address
from tests.faults.fleet import Fleet
from tests.faults.name_server import name_server as name_server  # noqa: PLC0414
from tests.harness import POOLS, QUIET
from tests.pools.waiting import FAST


@pytest.fixture
def start_fleet(redis_broker, start_worker, client) -> Callable[..., Fleet]:
    """Start a `Fleet`. `url` is that of its API, or one for each pool; `extra` are variables."""

    def start(
        url: str | dict[str, str],
        *,
        extra: dict[str, str] | None = None,
        app: str = "tests.faults.watched",
        **more: Any,
    ) -> Fleet:
        workers = {
            pool: start_worker(
                redis_broker,
                pool=pool,
                app=app,
                args=(*QUIET, "-Q", pool),
                ingest_url=url if isinstance(url, str) else url[pool],
                extra=FAST | {"SLUICE_REQUEST_TIMEOUT": "1,1"} | (extra or {}),
                wait=False,
                **more,
            )
            for pool in POOLS
        }
        return Fleet(workers, client(redis_broker)).wait_until_it_listens()

    return start


@pytest.fixture
def addresses(tmp_path):
    """Make an `Address`, which is closed after the test."""
    made = []

    def make(name="localhost"):
        made.append(Address(tmp_path, name))
        return made[-1]

    yield make
    for address in made:
        address.close()
