"""Waiting by condition: no test sleeps for as long as it hopes that something takes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.02  # seconds between two looks: short beside a worker's start, cheap on two cores


def wait_for(
    predicate: Callable[[], T],
    timeout: float = 20.0,
    what: str | Callable[[], str] = "the condition",
) -> T:
    """Call `predicate` until it answers something true, and return that answer.

    After `timeout` seconds it is an AssertionError that names `what` and the last answer; pass a
    function as `what` to tell more than could be known at the start. An exception in `predicate`
    is passed on at once: a condition that cannot be met any more should raise.
    """
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() >= deadline:
            name = what() if callable(what) else what
            msg = f"waited {timeout:g} s for {name}; last seen: {answer!r}"
            raise AssertionError(msg)
        time.sleep(INTERVAL)
    return answer
