"""The demo in the terminal: a table that is redrawn in place, or plain lines elsewhere.

Rendering is pure (a frame and a width give lines); the two views only print.  No line is
wider than the terminal: columns leave in order of their rank until the rest fits.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from sluice.demo.ledger import SENDER, PoolStats, Spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_BOLD, _DIM, _RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN = 1, 2, 31, 32, 33, 34, 35, 36
_INDENT: Final = "  "
_LONGEST_BAR: Final = 32
_PLAIN_EVERY: Final = 2.0
#: Shorter times are shown with one more decimal.
_WHOLE_MILLISECONDS: Final = 0.01
_WHOLE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Style:
    """What a terminal can show."""

    colour: bool = False
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Style:
        """The style for a stream: plain where it is no terminal, or where NO_COLOR is set."""
        try:
            "━─·…✓✗→".encode(stream.encoding or "ascii")
            unicode = True
        except (UnicodeEncodeError, LookupError):
            unicode = False
        live = stream.isatty() and environ.get("TERM") != "dumb"
        return cls(colour=live and not environ.get("NO_COLOR"), unicode=unicode)

    def paint(self, text: str, *codes: int) -> str:
        """`text` in a colour, where there are colours."""
        if not self.colour or not codes or not text.strip():
            return text
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"

    def bar(self, share: float, width: int) -> str:
        """A bar of `width` characters, filled for `share` of it."""
        filled = int(share * width)
        full, empty = ("━", "─") if self.unicode else ("=", "-")
        done = self.paint(full * filled, _GREEN if share >= 1 else _CYAN)
        return done + self.paint(empty * (width - filled), _DIM)

    def mark(self, good: bool) -> str:
        """A tick or a cross."""
        return self.paint("✓", _GREEN) if good else self.paint("✗", _RED)

    def text(self, text: str) -> str:
        """`text` with signs that the stream can encode."""
        if self.unicode:
            return text
        return (
            text.replace("✓", "ok")
            .replace("✗", "NOT")
            .replace("·", "-")
            .replace("…", "...")
            .replace("→", "->")
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """The demo at one moment."""

    elapsed: float
    phase: str
    detail: str
    pools: Sequence[PoolStats]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.  The one of the highest rank leaves first."""

    title: str
    width: int
    rank: int
    value: Callable[[PoolStats], str]
    colour: int = 0


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if value >= 1:
        return f"{value:.{2 if value < _WHOLE_SECONDS else 1}f} s"
    decimals = 0 if value >= _WHOLE_MILLISECONDS else 1
    return f"{value * 1000:.{decimals}f} ms"


def table(
    columns: Iterable[Column], pools: Iterable[PoolStats], width: int, style: Style
) -> list[str]:
    """A heading and one line per pool, with as many columns as `width` has room for."""
    chosen = list(columns)
    while (spare := width - len(_INDENT) - sum(one.width for one in chosen)) < 0 < len(chosen):
        chosen.remove(max(chosen, key=lambda column: column.rank))
    bar = min(_BAR.width + spare, _LONGEST_BAR)
    heading = "".join(" " * bar if one is _BAR else _cell(one.title, one) for one in chosen)
    lines = [_INDENT + style.paint(heading, _DIM)]
    for pool in pools:
        share = pool.complete / pool.tasks if pool.tasks else 0.0
        cells = []
        for column in chosen:
            text = column.value(pool)
            if column is _BAR:
                cells.append("  " + style.bar(share, bar - 2))
            elif text == "0":
                cells.append(style.paint(_cell(text, column), _DIM))
            else:
                cells.append(style.paint(_cell(text, column), column.colour))
        lines.append(_INDENT + "".join(cells))
    return lines


def _cell(text: str, column: Column) -> str:
    return text.ljust(column.width) if column is _POOL else text.rjust(column.width)


def _state(*states: str) -> Callable[[PoolStats], str]:
    def value(pool: PoolStats) -> str:
        return _of_tasks(str(sum(pool.states.get(state, 0) for state in states)), pool)

    return value


def _of_tasks(text: str, pool: PoolStats) -> str:
    """`text`, where there is a pool: the sender runs no tasks."""
    return text if pool.pool != SENDER else ""


def _spread(of: Callable[[PoolStats], Spread | None], part: str) -> Callable[[PoolStats], str]:
    def value(pool: PoolStats) -> str:
        spread = of(pool)
        return "" if spread is None else seconds(getattr(spread, part))

    return value


def _per_request(pool: PoolStats) -> str:
    return f"{pool.events / pool.requests:.1f}" if pool.requests else ""


_POOL: Final = Column("pool", 9, 0, lambda pool: pool.pool, _BOLD)
_BAR: Final = Column("", 10, 6, lambda _: "")
_COMPLETE: Final = Column(
    "complete", 9, 1, lambda pool: _of_tasks(f"{pool.complete}/{pool.tasks}", pool)
)
_TIMES: Final = (
    Column("wait p50", 10, 3, _spread(lambda pool: pool.wait, "p50")),
    Column("p95", 8, 9, _spread(lambda pool: pool.wait, "p95")),
    Column("run p50", 9, 3, _spread(lambda pool: pool.run, "p50")),
    Column("p95", 8, 9, _spread(lambda pool: pool.run, "p95")),
)
_PER_REQUEST: Final = Column("events/req", 12, 2, _per_request)
_LIVE: Final = (
    _POOL,
    _BAR,
    _COMPLETE,
    Column("queued", 7, 5, _state("queued"), _BLUE),
    Column("scheduled", 10, 8, _state("scheduled"), _MAGENTA),
    Column("active", 7, 5, _state("active"), _CYAN),
    Column("retrying", 9, 7, _state("retrying"), _YELLOW),
    Column("completed", 10, 4, _state("completed"), _GREEN),
    Column("failed", 7, 4, _state("failed"), _RED),
    *_TIMES,
    _PER_REQUEST,
)
_FINAL: Final = (
    _POOL,
    _COMPLETE,
    Column("completed", 11, 4, _state("completed"), _GREEN),
    Column("failed", 8, 4, _state("failed"), _RED),
    Column("retries", 9, 5, lambda pool: _of_tasks(str(pool.retries), pool), _YELLOW),
    *_TIMES,
    Column("events", 8, 6, lambda pool: str(pool.events)),
    Column("requests", 10, 7, lambda pool: str(pool.requests)),
    _PER_REQUEST,
)


def render(frame: Frame, width: int, style: Style) -> list[str]:
    """A frame of the live view as lines."""
    name = style.paint("sluice demo", _BOLD)
    elapsed = style.paint(f"{frame.elapsed:5.1f} s", _DIM)
    head = f"{_INDENT}{name}  {elapsed}  {style.text(_doing(frame))}"
    return ["", head, "", *table(_LIVE, frame.pools, width, style)]


def final_table(pools: Iterable[PoolStats], width: int, style: Style) -> list[str]:
    """The table of the summary."""
    return table(_FINAL, pools, width, style)


def render_plain(frame: Frame) -> str:
    """A frame of the live view as one line."""
    pools = ", ".join(f"{one.pool} {one.complete}/{one.tasks}" for one in frame.pools if one.tasks)
    return f"[{frame.elapsed:5.1f} s] {_doing(frame)}" + (f"; complete: {pools}" if pools else "")


def _doing(frame: Frame) -> str:
    return f"{frame.phase}: {frame.detail}" if frame.detail else frame.phase


class View(Protocol):
    """Where frames are shown until `close`."""

    def show(self, frame: Frame) -> None:
        """Show a frame, or leave it out where it comes too soon after another."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class LiveView:
    """Redraws in place.  Lines that the terminal has no room for are left out."""

    def __init__(self, stream: TextIO, style: Style) -> None:
        self._stream = stream
        self._style = style
        self._height = 0
        stream.write("\x1b[?25l")  # hide the cursor

    def show(self, frame: Frame) -> None:
        """Draw over the frame before."""
        size = shutil.get_terminal_size()
        lines = render(frame, size.columns, self._style)[: max(1, size.lines - 1)]
        up = f"\x1b[{self._height}A" if self._height else ""
        # Without autowrap a line that became too wide in a smaller window stays one line.
        text = "".join(f"\x1b[2K{line}\n" for line in lines)
        self._stream.write(f"\x1b[?7l{up}{text}\x1b[J\x1b[?7h")
        self._stream.flush()
        self._height = len(lines)

    def close(self) -> None:
        """Take the last frame away, for what is printed next, and show the cursor again."""
        up = f"\x1b[{self._height}A" if self._height else ""
        self._stream.write(f"{up}\x1b[J\x1b[?25h")
        self._stream.flush()
        self._height = 0


class PlainView:
    """A line for a new phase, and then every few seconds: for logs, CI and NO_COLOR."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._phase = ""
        self._elapsed = 0.0

    def show(self, frame: Frame) -> None:
        """Print a line where there is news."""
        if frame.phase != self._phase or frame.elapsed >= self._elapsed + _PLAIN_EVERY:
            self._phase, self._elapsed = frame.phase, frame.elapsed
            print(render_plain(frame), file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to undo."""


def view_for(stream: TextIO, style: Style) -> View:
    """The live view on a terminal that can move its cursor and may have colours."""
    return LiveView(stream, style) if style.colour else PlainView(stream)
