"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator

import pytest

from tests.harness import POOLS
from tests.harness.brokers import rabbitmq_space, valkey_space
from tests.pools.run import Run, carry_out
from tests.pools.table import BROKERS, DELIVERED

RUNS = [
    pytest.param(
        (pool, broker),
        id=f"{pool}-{broker}",
        marks=[
            pytest.mark.pool,
            getattr(pytest.mark, broker),
            pytest.mark.xdist_group(f"{pool}-{broker}"),  # or each process would run it
        ],
    )
    for pool in POOLS
    for broker in BROKERS
]


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    """All kinds of tasks on one worker of each pool on each broker, when it is over."""
    pool, broker = request.param
    server = request.getfixturevalue("valkey" if broker == "redis" else "rabbitmq")
    with (valkey_space if broker == "redis" else rabbitmq_space)(server) as space:
        return carry_out(pool, space)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Tell the report what the run delivered, and show what the worker of a failed one printed."""
    report = yield
    done = getattr(item, "funcargs", {}).get("run")
    if isinstance(done, Run):
        report.user_properties.append((DELIVERED, (done.pool, done.broker, done.counts())))
        if report.failed:
            report.sections.append((f"output of {done.worker.name}", done.worker.output(last=300)))
    return report
