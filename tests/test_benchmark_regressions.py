"""The regressions that the gate is tried with fit the source, and name tests that exist."""

import pytest

from benchmarks.regressions import REGRESSIONS, ROOT


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression_can_be_made(name):
    regression = REGRESSIONS[name]
    assert (ROOT / regression.file).read_text(encoding="utf-8").count(regression.old) == 1
    for test in regression.tests:
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8")
