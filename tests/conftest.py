"""Fixtures for all tests; what they are made of is in tests/harness."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.harness import POOLS, Broker, Process, RabbitMQ, Valkey, Worker, client_app
from tests.harness.brokers import rabbitmq_space, valkey_space
from tests.harness.folders import ring_folder
from tests.pools.table import columns, table

NO_RABBITMQ = "RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)"

_processes = pytest.StashKey[list[Process]]()


# --- brokers --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """The session's Valkey server."""
    server = Valkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """The session's RabbitMQ node."""
    if RabbitMQ.program() is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{NO_RABBITMQ}, and CI must test with it")
        pytest.skip(NO_RABBITMQ)
    server = RabbitMQ()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_broker(valkey: Valkey) -> Iterator[Broker]:
    """An empty database of the Valkey server."""
    with valkey_space(valkey) as broker:
        yield broker


@pytest.fixture
def rabbitmq_broker(rabbitmq: RabbitMQ) -> Iterator[Broker]:
    """A fresh vhost of the RabbitMQ node."""
    with rabbitmq_space(rabbitmq) as broker:
        yield broker


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ]
)
def broker(request: pytest.FixtureRequest) -> Broker:
    """A fresh part of each broker in turn."""
    return request.getfixturevalue(f"{request.param}_broker")


# --- processes ------------------------------------------------------------------------------------


@pytest.fixture(params=[pytest.param(pool, marks=pytest.mark.pool) for pool in POOLS])
def pool(request: pytest.FixtureRequest) -> str:
    """Each of Celery's pools in turn."""
    return request.param


@pytest.fixture
def spool_dir() -> Iterator[Path]:
    """A folder for rings, on tmpfs where there is one, as in production; removed with all in it."""
    with ring_folder() as folder:
        yield folder


@pytest.fixture
def start_process(request: pytest.FixtureRequest) -> Iterator[Callable[..., Process]]:
    """Start a `Process`, killed with its group after the test; its output is shown on failure."""
    started = request.node.stash.setdefault(_processes, [])

    def start(*args: Any, **kwargs: Any) -> Process:
        process = Process(*args, **kwargs)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def start_worker(
    request: pytest.FixtureRequest, spool_dir: Path
) -> Iterator[Callable[..., Worker]]:
    """Start a `Worker` on a `Broker` and wait until it is ready; killed after the test.

    `start_worker(broker, pool="gevent", ...)` takes the keywords of `Worker`, and `wait=False`.
    """
    started = request.node.stash.setdefault(_processes, [])

    def start(broker: Broker, *, wait: bool = True, **kwargs: Any) -> Worker:
        defaults = {"result_url": broker.result_url, "spool_dir": spool_dir}
        worker = Worker(broker.url, **defaults | kwargs)
        started.append(worker)
        return worker.wait_ready() if wait else worker

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def client() -> Iterator[Callable[[Broker], Celery]]:
    """Make a Celery app of the test's own for a `Broker`, to send with; closed after the test."""
    with contextlib.ExitStack() as apps:
        yield lambda broker: apps.enter_context(client_app(broker.url, broker.result_url))


@pytest.fixture
def ingest() -> Iterator[Any]:
    """A local ingest API that keeps what it accepts."""
    from sluice.testing import IngestServer  # only tests of Sluice import Sluice

    with IngestServer() as server:
        yield server


# --- reports --------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what the processes of a failed test printed."""
    report = yield
    if report.failed:
        for process in item.stash.get(_processes, []):
            report.sections.append((f"output of {process.name}", process.output(last=200)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it loudly when a whole broker was left out, and show what was delivered."""
    stats = terminalreporter.stats
    skipped = stats.get("skipped", [])
    count = sum(NO_RABBITMQ in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.section("RABBITMQ WAS NOT TESTED", sep="!", red=True, bold=True)
        terminalreporter.line(f"{count} tests were skipped: {NO_RABBITMQ}")
    reports = [report for kind in ("passed", "failed") for report in stats.get(kind, [])]
    if delivered := columns(reports):
        terminalreporter.section("delivered / expected, by pool and broker")
        for line in table(delivered):
            terminalreporter.line(line)
