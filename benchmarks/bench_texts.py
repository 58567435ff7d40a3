"""What a failure costs: its message and traceback are cleaned of arguments and secrets."""

from __future__ import annotations

from typing import Any

import pytest

from sluice import scrub
from sluice.arguments import Arguments

#: Frames of a traceback: a shallow one, and one of a deep recursion.
DEPTHS = {"short": 5, "deep": 200}
ARGUMENTS = Arguments(("order-1234567", 250), {"customer": "someone@example.com"})
MESSAGE = "charge of order-1234567 failed: 402 from https://user:pass@bank.example/charge?key=abc"


def traceback_of(depth: int) -> str:
    """One like Python's."""
    frame = '  File "/app/orders.py", line {0}, in step_{0}\n    return step_{1}(order)\n'
    frames = "".join(frame.format(number, number + 1) for number in range(depth))
    return f"Traceback (most recent call last):\n{frames}ValueError: {MESSAGE}\n"


@pytest.mark.benchmark(group="texts")
def test_error_text(benchmark: Any) -> None:
    assert "order-1234567" not in benchmark(scrub.error_text, MESSAGE, ARGUMENTS)


@pytest.mark.benchmark(group="texts")
@pytest.mark.parametrize("depth", DEPTHS)
def test_stacktrace(benchmark: Any, depth: str) -> None:
    text = traceback_of(DEPTHS[depth])
    assert "order-1234567" not in benchmark(scrub.stacktrace, text, ARGUMENTS)
