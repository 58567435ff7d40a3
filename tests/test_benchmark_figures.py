"""The arithmetic of the benchmarks."""

import random

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Interval, interval, quantile, ratios
from tests.doubles import LAW

some = st.lists(st.floats(0.5, 2), min_size=1, max_size=40)


@LAW
@given(some)
def test_a_median_lies_within_its_interval(values):
    found = interval(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert interval(values) == found


def test_more_measurements_are_surer():
    source = random.Random(1)
    values = [source.gauss(1, 0.1) for _ in range(400)]
    few, many = interval(values[:20]), interval(values)
    assert many.high - many.low < (few.high - few.low) / 2
    assert many.low < 1 < many.high


def test_a_ratio_is_taken_within_a_cycle():
    # The machine was half as fast in the second cycle, which is nobody's cost.
    assert ratios([11, 22], [10, 20]) == [1.1, 1.1]


def test_what_two_equals_differ_by_is_no_difference():
    band = Interval(1.01, 0.97, 1.05)
    assert Interval(1.04, 1.0, 1.1).is_none(band)
    assert not Interval(1.06, 1.04, 1.1).is_none(band)
    assert not Interval(0.9, 0.8, 0.96).is_none(band)
    assert Interval(0.99, 0.98, 1.0).is_none(Interval(0.96, 0.95, 0.97)), "up to 1 at least"


@LAW
@given(some, st.floats(0, 1))
def test_a_quantile_is_one_of_the_values(values, share):
    found = quantile(values, share)
    assert found in values
    assert sum(value < found for value in values) <= share * len(values)
    assert quantile(values, 1) == max(values)
