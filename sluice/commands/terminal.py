"""Text for a terminal: harmless, as wide as there is room, and with times as people read them.

Whatever a task's name or error holds, it moves no cursor, sets no colour, begins no line and
turns no text around: control and format characters are written as escapes.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

_GAP: Final = "  "
#: Categories of Unicode that are no text: controls, formats (bidirectional ones, too), halves
#: of pairs, private use, unassigned, and separators of lines.
_NO_TEXT: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
#: Marks that share the cell of the letter before them.
_ABOVE: Final = frozenset(("Mn", "Me"))
_WIDE: Final = frozenset(("W", "F"))

#: The colour of a state, as a code of ANSI's.
COLOURS: Final[Mapping[str, int]] = {
    "queued": 34,
    "scheduled": 35,
    "active": 36,
    "completed": 32,
    "failed": 31,
    "retrying": 33,
    "lost": 31,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.  The one of the highest rank leaves first."""

    title: str
    rank: int
    #: To what width it may be cut; None: never.
    least: int | None = None
    right: bool = False


def plain(text: str) -> str:
    """`text` in one line, with nothing in it that a terminal would obey."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_harmless, text))


def _harmless(character: str) -> str:
    if character in "\t\n\r":
        return " "
    if unicodedata.category(character) in _NO_TEXT:
        return character.encode("unicode_escape").decode("ascii")
    return character


def first_line(text: str | None) -> str:
    """What `text` begins with, harmless; empty for none."""
    return plain((text or "").strip().partition("\n")[0])


def width(text: str) -> int:
    """How many cells of a terminal harmless text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.category(character) in _ABOVE:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1


def fit(text: str, room: int) -> str:
    """The beginning of `text` in at most `room` cells, with a mark where it was cut."""
    if width(text) <= room:
        return text
    kept, taken = "", 1  # the mark's
    for character in text:
        taken += _cells(character)
        if taken > room:
            break
        kept += character
    return f"{kept}…" if room > 0 else ""


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int | None
) -> list[list[str]]:
    """The cells of a heading and of `rows`, padded so that a line takes at most `room`.

    Columns leave in order of their rank until the rest fits at its least, and what is left over
    goes to the others in order of their rank.  `room` None: as wide as it gets.
    """
    cells = [[column.title for column in columns], *rows]
    natural = [max(width(row[place]) for row in cells) for place in range(len(columns))]
    least = [
        each if column.least is None else min(each, column.least)
        for column, each in zip(columns, natural, strict=True)
    ]
    chosen = [place for place in range(len(columns)) if natural[place]]
    widths = natural.copy()
    if room is not None:
        while len(chosen) > 1 and _line(least, chosen) > room:
            chosen.remove(max(chosen, key=lambda place: columns[place].rank))
        widths = least.copy()
        for place in sorted(chosen, key=lambda place: columns[place].rank):
            spare = max(0, room - _line(widths, chosen))
            widths[place] += min(natural[place] - widths[place], spare)
    return [[_padded(row[i], widths[i], right=columns[i].right) for i in chosen] for row in cells]


def _line(widths: Sequence[int], chosen: Sequence[int]) -> int:
    return sum(widths[place] for place in chosen) + len(_GAP) * (len(chosen) - 1)


def _padded(text: str, room: int, *, right: bool) -> str:
    shown = fit(text, room)
    blank = " " * (room - width(shown))
    return blank + shown if right else shown + blank


def joined(cells: Sequence[str]) -> str:
    """A line of cells."""
    return _GAP.join(cells).rstrip()


def room() -> int | None:
    """The width of the terminal; None where it is none, and lines may be of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(text: str) -> None:
    """Print a line, at once."""
    print(text, flush=True)  # noqa: T201  a terminal program prints


def complain(text: str) -> None:
    """Print a line for whoever looks, beside what is printed for a program."""
    with contextlib.suppress(OSError):
        print(f"sluice: {text}", file=sys.stderr, flush=True)  # noqa: T201


def survive_any_text() -> None:
    """Write escapes for what the encoding of this terminal does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def clock(text: str | None, *, today: datetime | None = None, fine: bool = False) -> str:
    """An ISO time on this machine's clock: without its day where that is today's."""
    if text is None:
        return ""
    try:
        at = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        return plain(text)
    now = today or datetime.now().astimezone()
    shown = at.strftime("%H:%M:%S")
    if fine:
        shown += f".{at.microsecond // 1000:03}"
    return shown if at.date() == now.date() else f"{at:%Y-%m-%d} {shown}"
