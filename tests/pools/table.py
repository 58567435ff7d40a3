"""The table of what was delivered, by pool and broker, out of the reports of the tests."""

from collections.abc import Iterable

import pytest

from tests.harness import POOLS

BROKERS = ("redis", "rabbitmq")
#: The property of a report that has a pool, a broker, and what was delivered / what had to be.
DELIVERED = "delivered"

Columns = dict[tuple[str, str], dict[str, str]]


def columns(reports: Iterable[pytest.TestReport]) -> Columns:
    """What was delivered, by pool and broker."""
    return {
        (pool, broker): counts
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == DELIVERED
        for pool, broker, counts in [value]
    }


def table(columns: Columns) -> list[str]:
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
