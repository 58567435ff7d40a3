"""What `sluice demo` shows on a terminal: what was asked for, in any width, and nothing wider."""

from __future__ import annotations

import io
import re

import pytest

from sluice.demo.ledger import SENDER, PoolStats, Spread
from sluice.demo.screen import Frame, LiveView, Style, final_table, render, view_for

STATES = {"queued": 1, "scheduled": 2, "active": 3, "retrying": 4, "completed": 5, "failed": 6}
POOL = PoolStats(
    pool="prefork",
    tasks=60,
    complete=11,
    states=STATES,
    retries=7,
    wait=Spread(p50=0.0123, p95=0.5),
    run=Spread(p50=1.25, p95=12.0),
    events=300,
    requests=40,
)
SENDS = PoolStats(SENDER, 0, 0, {}, 0, None, None, 60, 3)
FRAME = Frame(3.2, "running", "60 tasks", (POOL, SENDS))
PLAIN = Style(colour=False, unicode=True)
#: Beside the pool and how many of its tasks are complete.
ALWAYS = ("wait p50", "run p50", "events/req")


def cells(width: int) -> dict[str, str]:
    """What the pool's line has under each title, where both end at the same place."""
    _, _, _, heading, line, _ = render(FRAME, width, PLAIN)
    ends = {match.end(): match[0] for match in re.finditer(r"wait p50|run p50|\S+", heading)}
    found = {}
    for end, title in ends.items():
        (text,) = re.findall(r"\S+(?: m?s)?$", line[:end]) if title != "pool" else [line[2:11]]
        found.setdefault(title, text.strip())
    return found


def test_a_wide_terminal_shows_everything():
    assert cells(160) == {
        "pool": "prefork",
        "complete": "11/60",
        **{state: str(number) for state, number in STATES.items()},
        "wait p50": "12 ms",
        "p95": "500 ms",
        "run p50": "1.25 s",
        "events/req": "7.5",
    }


def test_eighty_columns_show_tasks_states_times_and_events_per_request():
    found = cells(80)
    assert found["complete"] == "11/60"
    assert {"active", "completed", "failed", *ALWAYS} <= found.keys()
    assert found == {title: text for title, text in cells(160).items() if title in found}


@pytest.mark.parametrize("width", [*range(1, 140), 400])
def test_no_line_is_wider_than_the_terminal(width):
    lines = render(FRAME, width, PLAIN)[3:] + final_table(FRAME.pools, width, PLAIN)
    assert all(len(line) <= max(width, 2) for line in lines)


def test_the_live_view_draws_over_itself_and_leaves_the_terminal_as_it_was(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("LINES", "50")
    stream = io.StringIO()
    view = LiveView(stream, Style(colour=True, unicode=True))
    view.show(FRAME)
    height = stream.getvalue().count("\n")
    assert height == len(render(FRAME, 160, PLAIN))
    assert "prefork" in stream.getvalue()
    view.show(FRAME)
    view.close()
    assert stream.getvalue().count(f"\x1b[{height}A") == 2, "over the first, and away at the end"
    assert stream.getvalue().endswith("\x1b[J\x1b[?25h")


def test_where_there_is_no_terminal_a_line_says_how_far_it_is():
    stream = io.StringIO()
    view = view_for(stream, Style.of(stream, {}))
    for elapsed in (0.0, 0.5, 1.9, 2.0, 3.9, 4.1):
        view.show(Frame(elapsed, "running", "60 tasks", (POOL, SENDS)))
    view.show(Frame(4.2, "ending", "", ()))
    assert stream.getvalue().splitlines() == [
        "[  0.0 s] running: 60 tasks; complete: prefork 11/60",
        "[  2.0 s] running: 60 tasks; complete: prefork 11/60",
        "[  4.1 s] running: 60 tasks; complete: prefork 11/60",
        "[  4.2 s] ending",
    ]
