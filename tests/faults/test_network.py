"""The network between all pools and the API breaks in every way: tasks run, then all arrives."""

from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.faults.address import Address, Front
from tests.faults.fleet import Fleet
from tests.faults.name_server import NameServer
from tests.faults.troubles import of_the_network
from tests.pools.waiting import wait_lives

pytestmark = [pytest.mark.pool, pytest.mark.redis]
TASKS = 10


def live_through(
    troubles: list[AbstractContextManager[None]], fleet: Fleet, address: Address
) -> None:
    """Tasks run in each trouble, and after it everything arrives; nothing is lost in all."""
    for trouble in troubles:
        with trouble:
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
    troubles = [trouble() for trouble in of_the_network(address).values()]
    live_through(troubles, fleet, address)


def test_a_proxy(addresses, start_fleet):
    address = addresses()
    proxy = Front(address.front.port, answer=b"200 OK")

    @contextmanager
    def answers(line):
        proxy.close()
        proxy.answer = line
        proxy.listen()
        yield
        proxy.close()
        proxy.answer = b"200 OK"
        proxy.listen()

    url = f"http://127.0.0.1:{proxy.port}"
    extra = {"HTTPS_PROXY": url, "REQUESTS_CA_BUNDLE": str(address.bundle)}
    fleet = start_fleet(address.url, extra=extra)
    troubles = [
        proxy.refused(),
        proxy.black_hole(),
        proxy.silent(),
        answers(b"407 Proxy Authentication Required"),
        answers(b"502 Bad Gateway"),
    ]
    live_through(troubles, fleet, address)
    proxy.close()


def test_dns(addresses, start_fleet, name_server: NameServer):
    address = addresses("api.sluice.test")

    @contextmanager
    def resolver(mode):
        name_server.mode = mode
        with address.front.refused():  # a connection that lives needs no name
            pass
        yield
        name_server.mode = "answers"

    fleet = start_fleet(
        address.url, extra={"REQUESTS_CA_BUNDLE": str(address.bundle)}, wrap=name_server.wrap
    )
    live_through([resolver("fails"), resolver("hangs")], fleet, address)
