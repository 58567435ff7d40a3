"""Text for a terminal: nothing in it is obeyed, and no line is wider than there is room."""

from __future__ import annotations

import unicodedata
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.commands.terminal import Column, clock, first_line, fit, joined, plain, table, width
from tests.doubles import LAW

HARMFUL = {
    "an escape sequence": "\x1b[2J\x1b]0;title\x07",
    "a control of eight bits": "\x9b31m",
    "a new line": "a\r\nb",
    "a carriage return": "good\rbad",
    "a text that is turned around": "\u202egnp.exe\u2066",
    "nothing to see": "a\u200bb\ufeff",
    "half a pair": "\ud800",
    "a separator of lines": "a\u2028b\u0085c",
    "a backspace": "abc\x08\x08\x7f",
}
ANY_TEXT = st.text(max_size=60)


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL)
def test_nothing_is_obeyed(text):
    shown = plain(text)
    assert shown.isprintable() or all(unicodedata.category(c) == "Zs" for c in shown if c != " ")
    assert shown.encode("utf-8")
    assert len(shown.splitlines()) == 1


@LAW
@given(ANY_TEXT)
def test_plain_text_has_no_control_of_any_kind(text):
    categories = {unicodedata.category(character) for character in plain(text)}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert plain(plain(text)) == plain(text)


def test_ordinary_text_stays_what_it_is():
    for text in ("orders.charge", "größe", "注文", "🙂", "a b"):
        assert plain(text) == text


def test_an_escape_can_be_read():
    assert plain("\x1b[31m") == r"\x1b[31m"


def test_of_an_error_the_first_line_is_shown():
    assert first_line("\n  ValueError: no\n  more") == "ValueError: no"
    assert first_line(None) == ""


def test_wide_characters_take_two_cells_and_marks_none():
    assert width("注文") == 4
    assert width("e\u0301") == 1
    assert width("abc") == 3


@LAW
@given(ANY_TEXT.map(plain), st.integers(0, 20))
def test_what_is_cut_fits(text, room):
    assert width(fit(text, room)) <= room
    if width(text) <= room:
        assert fit(text, room) == text


COLUMNS = (
    Column("A", 2, least=3),
    Column("B", 0, right=True),
    Column("C", 1, least=4),
)


@LAW
@given(
    rows=st.lists(st.tuples(*[ANY_TEXT.map(plain)] * 3), max_size=5),
    room=st.integers(1, 120),
)
def test_a_table_is_as_wide_as_there_is_room_or_is_its_first_column(rows, room):
    for cells in table(COLUMNS, rows, room):
        assert len(cells) == 1 or width(joined(cells)) <= room


def test_columns_leave_by_rank_and_what_is_left_grows():
    rows = [("aaaaaa", "bb", "cccccc")]
    assert table(COLUMNS, rows, None)[1] == ["aaaaaa", "bb", "cccccc"]
    assert table(COLUMNS, rows, 15)[1] == ["aa…", "bb", "cccccc"]
    assert table(COLUMNS, rows, 13)[1] == ["aa…", "bb", "ccc…"]
    assert table(COLUMNS, rows, 12)[1] == ["bb", "cccccc"]
    assert table(COLUMNS, rows, 3)[1] == ["bb"]


def test_a_column_without_anything_in_it_has_its_heading():
    assert table(COLUMNS, [("", "", "")], None)[0] == ["A", "B", "C"]


def test_a_time_of_today_has_no_day():
    at = datetime(2026, 1, 2, 3, 4, 5, 678_000).astimezone()
    assert clock(at.isoformat(), today=at) == "03:04:05"
    assert clock(at.isoformat(), today=at, fine=True) == "03:04:05.678"
    assert clock(at.isoformat()) == "2026-01-02 03:04:05"


def test_what_is_no_time_is_shown_as_it_is_and_harmless():
    assert clock("soon\x1b") == r"soon\x1b"
    assert clock(None) == ""
