"""`docs/benchmarks.md` out of the record of a run: every number on the page comes from there.

    python -m benchmarks.page RECORD PAGE

The words around the figures are in `page.md`; the sentences that depend on what was found are made
here, also those that say where Sluice is worse.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template

from benchmarks import results
from benchmarks.plan import NOOP, OURS, SLEEP
from benchmarks.results import Record
from benchmarks.tables import Tables, table

TEMPLATE = Path(__file__).with_name("page.md")
CPU_GOAL, STALL_GOALS = 1.03, {"p99": 0.5, "p99.9": 1.5}


class Page:
    """The parts of the page, by the names that the template has for them."""

    def __init__(self, found: Record) -> None:
        self._found = found
        self._tables = Tables(found)
        self._titles = results.titles(found)
        self._noop = results.comparisons(found, work=NOOP.name)

    def parts(self) -> dict[str, str]:
        """All of them."""
        tables = self._tables
        return {
            "short": self._short(),
            "goals": self._goals(),
            "about": self._about(),
            "cpu": tables.cpu(),
            "speed": tables.speed(),
            "works": tables.works(),
            "latency": tables.latency(),
            "stall": tables.stall(),
            "worker_stall": tables.worker_stall(),
            "footprint": tables.footprint(),
            "delivery": tables.delivery(),
            "states": tables.states(),
            "burst": tables.burst(),
            "startup": tables.startup(),
            "parts": tables.parts(),
            "instructions": tables.instructions(),
            "missing": self._missing(),
        }

    # Sentences.

    def _short(self) -> str:
        ours = {pool: results.ratio(one, OURS) for pool, one in self._noop.items()}
        low, high = (pick(one.median for one in ours.values()) for pick in (min, max))
        costs, arrived = _pair(low, high), self._least_delivered()
        lines = [
            f"**In short:** with Sluice a no-op task costs {costs} more CPU; delivered: {arrived}."
        ]
        for pool, variants in self._noop.items():
            if (best := results.best_peer(variants)) is None:
                continue
            name, rival = best
            word = "less than" if ours[pool].median < rival.median else "**more than**"
            mine, theirs, noise = (
                results.percent(one.median) for one in (ours[pool], rival, results.band(variants))
            )
            lines.append(
                f"- {pool}: {mine}, {word} the best of the others that deliver 99 % "
                f"({self._titles[name]}, {theirs}); two workers without anything differ by {noise}."
            )
        return "\n".join([*lines, *self._worse()])

    def _worse(self) -> list[str]:
        """Where another one costs less."""
        found = []
        for pool, variants in self._noop.items():
            for name, (rival, share) in results.cheaper_than_ours(variants).items():
                found.append(
                    f"- **{self._titles[name]} costs less in {pool}**"
                    f" ({results.percent(rival.median)}) and delivered {share:.1%}."
                )
        return found or ["- No other one costs less in any pool."]

    def _least_delivered(self) -> str:
        shares = [
            share
            for one in self._found["cost"]
            if one["ingest"] == "up"
            and (share := results.delivered(one["variants"][OURS])) is not None
        ]
        return (
            "every start and end" if min(shares) == 1 else f"{min(shares):.2%} of starts and ends"
        )

    def _goals(self) -> str:
        rows = [["figure", "goal", "found", ""]]
        for pool, variants in self._noop.items():
            one = results.ratio(variants, OURS)
            rows.append(
                [
                    f"CPU per no-op task, {pool}",
                    f"<= {CPU_GOAL}",
                    str(one),
                    _met(one.median <= CPU_GOAL),
                ]
            )
        for pool, variants in results.comparisons(self._found, work=SLEEP.name).items():
            one, band = results.ratio(variants, OURS), results.band(variants)
            rows.append(
                [f"CPU per task of 5 ms, {pool}", f"A/A: {band}", str(one), _met(one.is_none(band))]
            )
        for library, states in self._found["hub"].items():
            for name, goal in STALL_GOALS.items():
                added = results.stall_added(states["up"], name)
                rows.append(
                    [
                        f"hub stall {name} added, {library}",
                        f"<= {goal} ms",
                        f"{added:.2f} ms",
                        _met(added <= goal),
                    ]
                )
        rows += self._goals_of_parts()
        return table(rows)

    def _goals_of_parts(self) -> list[list[str]]:
        parts = self._found.get("parts", {})
        goals = (
            ("test_append", "append of one prepared record, median", 1.5, "us"),
            ("test_capture", "a whole capture, median", 5.0, "us"),
        )
        rows = []
        for name, title, goal, unit in goals:
            if name in parts:
                value = parts[name]["median"]
                rows.append(
                    [title, f"<= {goal} {unit}", f"{value:.2f} {unit}", _met(value <= goal)]
                )
        if "test_drain_join_and_post" in parts:
            rate = 50_000 / parts["test_drain_join_and_post"]["median"] * 1e6
            rows.append(
                ["drained, joined and posted", ">= 100,000/s", f"{rate:,.0f}/s", _met(rate >= 1e5)]
            )
        return rows

    def _about(self) -> str:
        about = self._found["about"]
        packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
        return (
            f"{about['date']}, commit `{about['commit']}`, {about['cpus']} cores ({about['cpu']}), "
            f"{about['system']}, Python {about['python']}; {packages}. "
            f"The plan was {about['plan']!r} (`benchmarks/plan.py`), and took "
            f"{about.get('seconds', 0) // 60} minutes."
        )

    def _missing(self) -> str:
        missing = self._found["missing"]
        return f"Not to be had on this machine: {', '.join(missing)}." if missing else ""


def _pair(low: float, high: float) -> str:
    first, last = (f"{(one - 1) * 100:.0f}" for one in (low, high))
    return f"{first} to {last} %" if first != last else f"{first} %"


def _met(met: bool) -> str:
    return "reached" if met else "**not reached**"


def main() -> None:
    """Write the page and its pictures."""
    from benchmarks import plots  # needs matplotlib, which nobody else does

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("page", type=Path)
    given = parser.parse_args()
    found = json.loads(given.record.read_text())
    given.page.write_text(Template(TEMPLATE.read_text()).substitute(Page(found).parts()))
    plots.draw(found, given.page.parent / "benchmarks")


if __name__ == "__main__":
    main()
