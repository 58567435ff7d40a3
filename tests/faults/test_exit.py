"""TERM to exit, in all pools, in every trouble of the API: hardly longer than without Sluice."""

import signal
import time
from collections.abc import Iterable

import pytest

from tests.faults.fleet import Fleet
from tests.faults.troubles import ANSWERS, REFUSALS, of_answers, of_the_network
from tests.harness import POOLS, wait_for

pytestmark = [pytest.mark.pool, pytest.mark.redis, pytest.mark.long, pytest.mark.timeout(1800)]
SHUTDOWN_TIMEOUT = 2.0
#: For two cores on which five workers end at once, in seconds.
SLACK = 1.0


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


def test_no_trouble_holds_a_worker_up_at_its_end(start_fleet, addresses):
    address = addresses()
    runs = [
        seconds_to_exit(start_fleet(address.url, init=False, app="tests.harness.apps.basic"))
        for _ in range(3)
    ]
    without = {pool: max(run[pool] for run in runs) for pool in POOLS}
    troubles = of_the_network(address) | of_answers(address, ANSWERS | REFUSALS)
    print(row("", POOLS), *(row("without Sluice", times(run)) for run in runs), sep="\n")
    late = []
    for name, trouble in troubles.items():
        fleet = start_fleet(
            address.url,
            extra={"REQUESTS_CA_BUNDLE": str(address.bundle), "SLUICE_REQUEST_TIMEOUT": "5,10"},
        )
        before = fleet.stats()
        with trouble():
            fleet.run(5)
            fleet.wait_for_a_try(before)
            seconds = seconds_to_exit(fleet)
        print(row(name, times(seconds)), flush=True)
        late += [
            f"{pool}: {seconds[pool]:.2f} s, {name}"
            for pool in seconds
            if seconds[pool] > without[pool] + SHUTDOWN_TIMEOUT + SLACK
        ]
    assert late == []
