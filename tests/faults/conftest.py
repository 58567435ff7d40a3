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
    """Start a `Fleet`. `url` is that of its API, or one for each worker; `extra` are variables.

    Workers are named like their pool, or like "solo-2" where there are several of it.
    """

    def start(
        url: str | dict[str, str],
        *,
        extra: dict[str, str] | None = None,
        app: str = "tests.faults.watched",
        **more: Any,
    ) -> Fleet:
        urls = dict.fromkeys(POOLS, url) if isinstance(url, str) else url
        workers = {
            name: start_worker(
                redis_broker,
                pool=name.partition("-")[0],
                app=app,
                args=(*QUIET, "-Q", name),
                ingest_url=urls[name],
                extra=FAST | {"SLUICE_REQUEST_TIMEOUT": "1,1"} | (extra or {}),
                wait=False,
                **more,
            )
            for name in urls
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
