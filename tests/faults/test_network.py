"""The network between all pools and the API breaks in every way: tasks run, then all arrives."""

import contextlib

import pytest

from tests.faults.name_server import NameServer
from tests.faults.troubles import of_a_proxy, of_dns, of_the_network
from tests.harness.front import Front

pytestmark = [pytest.mark.pool, pytest.mark.redis]


def test_connections_and_certificates(addresses, start_fleet):
    address = addresses()
    fleet = start_fleet(address.url, extra={"REQUESTS_CA_BUNDLE": str(address.bundle)})
    fleet.live_through(of_the_network(address), address.server)


def test_a_proxy(addresses, start_fleet):
    address = addresses()
    with contextlib.closing(Front(address.front.port, answer=b"200 OK")) as proxy:
        extra = {
            "HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}",
            "REQUESTS_CA_BUNDLE": str(address.bundle),
        }
        fleet = start_fleet(address.url, extra=extra)
        fleet.live_through(of_a_proxy(proxy), address.server)
        assert len(proxy.heads) > len(fleet.workers), "it was asked, and again after each trouble"


def test_dns(addresses, start_fleet, name_server: NameServer):
    address = addresses("api.sluice.test")
    fleet = start_fleet(
        address.url, extra={"REQUESTS_CA_BUNDLE": str(address.bundle)}, wrap=name_server.wrap
    )
    fleet.live_through(of_dns(name_server, address), address.server)
