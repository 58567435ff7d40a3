"""What a test needs and this machine has not: skipped with the reason, and failed in CI."""

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip this test; where CI=true fail it, since what is not tested there is not promised."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and CI must test with it")
    pytest.skip(what)
