"""Tests; what they share says what differed in an assertion, as the tests themselves do."""

import pytest

pytest.register_assert_rewrite("tests.faults", "tests.harness", "tests.pools")
