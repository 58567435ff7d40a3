"""The goals of the benchmarks, each with what a run found: reached or not, whatever the sentence.

A goal against other variants or against the noise is taken from the same comparison of the same
run; what a run did not measure has no row.
"""

from __future__ import annotations

from benchmarks import results
from benchmarks.plan import AGAIN, NOOP, OURS, SLEEP
from benchmarks.results import Record

CPU_GOAL = 1.03
#: Milliseconds.
STALL_GOALS = {"p99": 0.5, "p99.9": 1.5}
#: Microseconds of a part, median.
PART_GOALS = {
    "test_append[empty]": ("append of one prepared record", 1.5),
    "test_append[full]": ("the same, where it overwrites one", 1.5),
    "test_capture": ("a whole capture", 5.0),
}
#: Events a second that one sender drains, joins and posts.
SENDER_GOAL = 100_000
#: States of the API in which a task is to cost what it costs while it is up.
_TROUBLES = {"slow": "is slow", "errors": "fails", "black-hole": "is gone"}
Row = tuple[str, str, str, str]


class Goals:
    """The rows of a record."""

    def __init__(self, found: Record) -> None:
        self._found = found
        self._titles = results.titles(found)
        self._noop = results.comparisons(found, work=NOOP.name)

    def rows(self) -> list[Row]:
        """What was to be reached, the bound, what was found, and whether it was reached."""
        return [
            *self._cpu(),
            *self._cpu_beside_the_best(),
            *self._cpu_within_the_noise(),
            *self._latency(),
            *self._stall(),
            *self._delivery(),
            *self._parts(),
            *self._states(),
        ]

    def _cpu(self) -> list[Row]:
        ours = {pool: results.ratio(one, OURS) for pool, one in self._noop.items()}
        return [
            _row(f"CPU per no-op task, {pool}", f"<= {CPU_GOAL}", str(one), one.median <= CPU_GOAL)
            for pool, one in ours.items()
        ]

    def _cpu_beside_the_best(self) -> list[Row]:
        rows = []
        for pool, variants in self._noop.items():
            if best := results.best_peer(variants):
                name, rival = best
                one, beside = results.ratio(variants, OURS), results.beside(variants, name)
                what = f"the same, below the best that delivers 99 %, {pool}"
                bound = f"< {rival} ({self._titles[name]})"
                lower = beside.median < 1 and not beside.is_none(results.band(variants))
                rows.append(_row(what, bound, f"{one}; over that one {beside}", lower))
        return rows

    def _cpu_within_the_noise(self) -> list[Row]:
        rows = []
        for pool, variants in results.comparisons(self._found, work=SLEEP.name).items():
            one, band = results.ratio(variants, OURS), results.band(variants)
            what = f"CPU per task of 5 ms, {pool}"
            rows.append(_row(what, f"A/A: {band}", str(one), one.is_none(band)))
        return rows

    def _latency(self) -> list[Row]:
        rows = []
        for each in self._found["latency"]:
            variants = each["variants"]
            one = results.latency(variants, OURS)
            band = results.latency(variants, AGAIN)
            what = f"p99 from sent to done, {each['work']}, {each['pool']}"
            rows.append(_row(what, f"A/A: {band}", str(one), one.is_none(band)))
        return rows

    def _stall(self) -> list[Row]:
        rows = []
        for library, states in self._found["hub"].items():
            for name, goal in STALL_GOALS.items() if "up" in states else ():
                added = results.stall_added(states["up"], name)
                apart = results.stall_added(states["up"], name, kind="again")
                found = f"{added:.2f} ms (A/A {apart:+.2f})"
                what = f"hub stall {name} added, {library}"
                rows.append(_row(what, f"<= {goal} ms", found, added <= goal))
        return rows

    def _delivery(self) -> list[Row]:
        rows = []
        for pool, variants in self._noop.items():
            share = results.delivered(variants[OURS]) or 0.0
            what = f"starts and ends delivered, {pool}"
            rows.append(_row(what, "100 %", f"{share:.2%}", share == 1))
        return rows

    def _parts(self) -> list[Row]:
        parts = self._found.get("parts", {})
        rows = []
        for name, (what, goal) in PART_GOALS.items():
            if name in parts:
                value = parts[name]["median"]
                rows.append(_row(what, f"<= {goal} us", f"{value:.2f} us", value <= goal))
        up, down = (parts.get(f"test_capture_with_the_api[{state}]") for state in ("up", "down"))
        if up and down:
            bound = f"{up['median']:.2f} us with it up, quartiles {up['iqr']:.2f} apart"
            found = f"{down['median']:.2f} us"
            same = down["median"] - up["median"] <= (up["iqr"] + down["iqr"]) / 2
            rows.append(_row("a capture with the API down", bound, found, same))
        if "test_drain_join_and_post" in parts:
            rate = 1e6 / parts["test_drain_join_and_post"]["median"]
            found, bound = f"{rate:,.0f}/s", f">= {SENDER_GOAL:,}/s"
            rows.append(_row("drained, joined and posted", bound, found, rate >= SENDER_GOAL))
        return rows

    def _states(self) -> list[Row]:
        """With an API in trouble, beside the same with the API up."""
        rows = []
        for state, words in _TROUBLES.items():
            away = results.comparisons(self._found, work=NOOP.name, ingest=state)
            for pool, variants in away.items():
                if pool not in self._noop:
                    continue
                one, up = results.ratio(variants, OURS), results.ratio(self._noop[pool], OURS)
                what = f"CPU per no-op task while the API {words}, {pool}"
                bound = f"<= {up.high:.3f} ({up} up)"
                rows.append(_row(what, bound, str(one), one.low <= up.high))
        return rows


def _row(what: str, goal: str, found: str, met: bool) -> Row:
    return what, goal, found, "reached" if met else "**not reached**"
