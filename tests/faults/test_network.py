"""The network between all pools and the API breaks in every way: tasks run, then all arrives."""

import contextlib

import pytest

from tests.faults.address import Address, Front
from tests.faults.fleet import Fleet
from tests.faults.name_server import NameServer
from tests.faults.troubles import Trouble, of_a_proxy, of_dns, of_the_network
from tests.pools.waiting import wait_lives

pytestmark = [pytest.mark.pool, pytest.mark.redis]
TASKS = 10


def live_through(troubles: dict[str, Trouble], fleet: Fleet, address: Address) -> None:
    """Tasks run in each trouble, and after it everything arrives; nothing is lost in all."""
    for trouble in troubles.values():
        with trouble():
            fleet.run(TASKS)
            fleet.wait_for_a_try()
        wait_lives(address.server, fleet.lives, timeout=40)
    assert all(stats["adds_up"] for stats in fleet.stats().values())
    fleet.end()
    fleet.assert_whole(address.server)
    fleet.assert_quiet()


def test_connections_and_certificates(addresses, start_fleet):
    address = addresses()
    fleet = start_fleet(address.url, extra={"REQUESTS_CA_BUNDLE": str(address.bundle)})
    live_through(of_the_network(address), fleet, address)


def test_a_proxy(addresses, start_fleet):
    address = addresses()
    with contextlib.closing(Front(address.front.port, answer=b"200 OK")) as proxy:
        extra = {
            "HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}",
            "REQUESTS_CA_BUNDLE": str(address.bundle),
        }
        fleet = start_fleet(address.url, extra=extra)
        live_through(of_a_proxy(proxy), fleet, address)


def test_dns(addresses, start_fleet, name_server: NameServer):
    address = addresses("api.sluice.test")
    fleet = start_fleet(
        address.url, extra={"REQUESTS_CA_BUNDLE": str(address.bundle)}, wrap=name_server.wrap
    )
    live_through(of_dns(name_server, address), fleet, address)
