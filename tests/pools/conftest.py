"""Fixtures of the end-to-end tests, and the table of what was delivered."""

from collections.abc import Iterator

import pytest

from tests.harness import POOLS
from tests.harness.brokers import rabbitmq_space, valkey_space
from tests.pools.run import Run, carry_out

BROKERS = ("redis", "rabbitmq")
_columns = pytest.StashKey[dict[tuple[str, str], dict[str, str]]]()

RUNS = [
    pytest.param(
        (pool, broker),
        id=f"{pool}-{broker}",
        marks=[pytest.mark.pool, getattr(pytest.mark, broker)],
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
        done = carry_out(pool, space)
    request.config.stash.setdefault(_columns, {})[pool, broker] = done.counts()
    return done


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what the worker of a failed run printed."""
    report = yield
    done = getattr(item, "funcargs", {}).get("run")
    if report.failed and isinstance(done, Run):
        report.sections.append((f"output of {done.worker.name}", done.worker.output(last=300)))
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print pool x broker x event: what was delivered / what had to be."""
    columns = config.stash.get(_columns, {})
    if not columns:
        return
    terminalreporter.section("delivered / expected, by pool and broker")
    for line in table(columns):
        terminalreporter.line(line)


def table(columns: dict[tuple[str, str], dict[str, str]]) -> list[str]:
    """A Markdown table; "-" where a pool or a broker does not have such a thing."""
    places = [(pool, broker) for pool in POOLS for broker in BROKERS if (pool, broker) in columns]
    rows = list(dict.fromkeys(row for place in places for row in columns[place]))
    cells = [["", *(f"{pool} {broker}" for pool, broker in places)]]
    cells += [[row, *(columns[place].get(row, "-") for place in places)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines
