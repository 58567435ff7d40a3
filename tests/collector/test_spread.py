"""Durations on a scale that a database can count: how far a percentile can be off."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.collector.spread import duration_at, percentile, place_of
from tests.doubles import LAW

#: From a hundred microseconds to some three years.
DURATIONS = st.floats(1e-4, 1e8)


@LAW
@given(duration=DURATIONS)
def test_the_middle_of_a_place_is_within_5_percent_of_all_in_it(duration):
    place = place_of(duration)
    assert place is not None
    assert math.isclose(duration_at(place), duration, rel_tol=0.05)


@LAW
@given(one=DURATIONS, other=DURATIONS)
def test_a_longer_duration_is_never_in_a_place_before(one, other):
    places = place_of(min(one, other)), place_of(max(one, other))
    assert places == tuple(sorted(places))


@LAW
@given(durations=st.lists(DURATIONS, min_size=1), share=st.floats(0.01, 1))
def test_a_percentile_is_that_of_the_durations_within_5_percent(durations, share):
    counts = Counter(place_of(one) for one in durations)
    nearest = sorted(durations)[math.ceil(len(durations) * share) - 1]
    assert math.isclose(percentile(counts, share), nearest, rel_tol=0.05)


@pytest.mark.parametrize("duration", [0.0, -1.0, 1e-9, 1e-5])
def test_what_took_no_time_is_the_first_place(duration):
    assert place_of(duration) == 0
    assert duration_at(0) == 0.0


def test_the_scale_ends_and_what_is_not_known_has_no_place():
    assert place_of(1e17) == place_of(1e12)
    assert place_of(None) is None
    assert percentile({}, 0.5) is None


@pytest.mark.parametrize(("share", "place"), [(0.5, 10), (0.51, 20), (0.95, 30), (1.0, 30)])
def test_a_percentile_is_the_nearest_rank(share, place):
    assert percentile({30: 1, 10: 2, 20: 1}, share) == duration_at(place)
