"""Sizes, durations and moments as people type them."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

import pytest

from sluice.commands import amounts


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 0), ("123", 123), ("5B", 5), ("1k", 1024), ("1KB", 1000), ("1KiB", 1024)),
        *(("1.5MiB", 1_572_864), ("500 MB", 500_000_000), ("1GiB", 2**30), ("2g", 2**31)),
    ],
)
def test_a_size(text, size):
    assert amounts.size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("24h", 86_400), ("7D", 604_800)]
)
def test_a_duration(text, seconds):
    assert amounts.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "1x", "1e9", "inf", "nan", "1 2", "\u0661m"])
@pytest.mark.parametrize("kind", [amounts.size, amounts.duration, amounts.rate])
def test_what_is_no_amount_is_refused_with_an_example(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a"):
        kind(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "\u0661", ""])
def test_a_count_is_above_zero(text):
    with pytest.raises(argparse.ArgumentTypeError, match="above zero"):
        amounts.count(text)


def test_a_moment_is_so_long_ago():
    before = datetime.now(UTC)
    assert before <= amounts.moment("10m") + timedelta(minutes=10) <= datetime.now(UTC)


def test_a_moment_may_have_a_zone():
    wanted = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    assert amounts.moment("2026-01-31T09:30Z") == wanted
    assert amounts.moment("2026-01-31T10:30+01:00") == wanted


def test_a_moment_without_a_zone_is_of_this_machine():
    wanted = datetime(2026, 1, 31, 9, 30).astimezone(UTC)
    assert amounts.moment("2026-01-31T09:30") == wanted


def test_a_moment_before_all_time_is_the_first():
    assert amounts.moment("999999999999999w").year == 1970


def test_what_is_no_moment_is_refused_with_examples():
    with pytest.raises(argparse.ArgumentTypeError, match=r"neither a time ago such as 10m"):
        amounts.moment("yesterday")
