"""A collector to read from, and the command run in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from sluice.cli import main
from tests.commands.stub import Stub


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests."""
    for name in list(os.environ):
        if name.upper().startswith("SLUICE_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A collector's read API."""
    found = Stub()
    yield found
    found.stop()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command, and return its exit code, what it printed, and what it complained of."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as left:  # argparse
            code = int(left.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
