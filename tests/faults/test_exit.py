"""TERM to exit, in all pools, in every trouble of the API: hardly longer than without Sluice."""

import contextlib
import functools
import signal
import time
from collections.abc import Callable, Iterable

import pytest

from tests.faults.address import Address
from tests.faults.fleet import Fleet
from tests.faults.troubles import (
    ANSWERS,
    DROPPING,
    REFUSALS,
    Trouble,
    bad_events,
    of_a_proxy,
    of_answers,
    of_dns,
    of_the_network,
)
from tests.harness import POOLS, wait_for
from tests.harness.front import Front

pytestmark = [pytest.mark.pool, pytest.mark.redis, pytest.mark.long, pytest.mark.timeout(1800)]
SHUTDOWN_TIMEOUT = 2.0
#: For two cores on which five workers end at once, in seconds. Celery's green pools look once a
#: second whether it is time, so that theirs is a whole second, give or take some hundredths.
SLACK = 1.1


def seconds_to_exit(fleet: Fleet) -> dict[str, float]:
    """End all at once; the time that each took."""
    begin = time.monotonic()
    for worker in fleet.workers.values():
        worker.send_signal(signal.SIGTERM)
    seconds: dict[str, float] = {}

    def all_ended() -> bool:
        for pool, worker in fleet.workers.items():
            if pool not in seconds and not worker.running:
                assert worker.returncode == 0, pool
                seconds[pool] = time.monotonic() - begin
        return seconds.keys() == fleet.workers.keys()

    wait_for(all_ended, 30, lambda: f"all to end; so far {seconds}")
    return seconds


def times(seconds: dict[str, float]) -> list[str]:
    return [f"{seconds[pool]:.2f}" for pool in POOLS]


def row(name: str, cells: Iterable[str]) -> str:
    return f"{name:36}" + "".join(f"{cell:>10}" for cell in cells)


@pytest.fixture
def without(start_fleet):
    """The longest that each pool took without Sluice, of three."""
    runs = [
        seconds_to_exit(start_fleet("", init=False, app="tests.harness.apps.basic"))
        for _ in range(3)
    ]
    print("\n" + row("", POOLS), *(row("without Sluice", times(run)) for run in runs), sep="\n")
    return {pool: max(run[pool] for run in runs) for pool in POOLS}


def late(troubles: dict[str, Trouble], without: dict[str, float], start: Callable[[], Fleet]):
    """Who took longer than promised to end in one of these troubles."""
    found = []
    for name, trouble in troubles.items():
        fleet = start()
        # A request that is under way would meet the trouble, and some are not followed by another.
        before = fleet.wait_until_idle()
        with trouble():
            fleet.run(5)
            fleet.wait_for_a_try(before)
            seconds = seconds_to_exit(fleet)
        print(row(name, times(seconds)), flush=True)
        found += [
            f"{pool}: {seconds[pool]:.2f} s, {name}"
            for pool in seconds
            if seconds[pool] > without[pool] + SHUTDOWN_TIMEOUT + SLACK
        ]
    return found


def environment(address: Address) -> dict[str, str]:
    """The timeouts are those that a user has."""
    return {"REQUESTS_CA_BUNDLE": str(address.bundle), "SLUICE_REQUEST_TIMEOUT": "5,10"}


def test_no_trouble_of_the_api_holds_a_worker_up(start_fleet, addresses, without):
    address = addresses()
    answers = ANSWERS | DROPPING | {"400 for one event": bad_events(10)} | REFUSALS
    troubles = of_the_network(address) | of_answers(address.server, answers)
    env = environment(address)
    assert late(troubles, without, lambda: start_fleet(address.url, extra=env)) == []


def test_no_proxy_holds_a_worker_up(start_fleet, addresses, without):
    address = addresses()
    with contextlib.closing(Front(address.front.port, answer=b"200 OK")) as proxy:
        env = environment(address) | {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        start = functools.partial(start_fleet, address.url, extra=env)
        assert late(of_a_proxy(proxy), without, start) == []


def test_no_name_server_holds_a_worker_up(start_fleet, addresses, without, name_server):
    address = addresses("api.sluice.test")
    name_server.patience("")
    env = environment(address)
    start = functools.partial(start_fleet, address.url, extra=env, wrap=name_server.wrap)
    assert late(of_dns(name_server, address), without, start) == []
