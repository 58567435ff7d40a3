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
from benchmarks.goals import CPU_GOAL, Goals
from benchmarks.plan import NOOP, OURS
from benchmarks.results import Record
from benchmarks.tables import Tables, table
from benchmarks.worse import worse

TEMPLATE = Path(__file__).with_name("page.md")
_WHY = """CPU per no-op task cannot reach {goal} in plain Python here: "three appends" below is
a worker in which Celery's callbacks come in and three prepared records are appended to a ring, with
nothing captured, encoded or sent, and costs {floor}. A capture that takes some microseconds in a
loop takes three times as long when a millisecond of other Python code has run since the last one:
its code, its tables and the ring's pages are out of the caches by then. What would help is fewer
cache lines: a writer in C, or records of raw values that the sender encodes."""


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
            "why": self._why(),
            "about": self._about(),
            "versions": tables.versions(),
            "rate": self._rate(),
            "cpu": tables.cpu(),
            "speed": tables.speed(),
            "works": tables.works(),
            "latency": tables.latency(),
            "stall": tables.stall(),
            "worker_stall": tables.worker_stall(),
            "footprint": tables.footprint(),
            "delivery": tables.delivery(),
            "states": tables.states(),
            "ends": tables.ends(),
            "burst": tables.burst(),
            "startup": tables.startup(),
            "parts": tables.parts(),
            "instructions": tables.instructions(),
            "missing": self._missing(),
        }

    # Sentences.

    def _short(self) -> str:
        ours = {pool: results.ratio(one, OURS) for pool, one in self._noop.items()}
        if not ours:
            return "No-op tasks were not measured in this run."
        low, high = (pick(one.median for one in ours.values()) for pick in (min, max))
        costs, arrived = _pair(low, high), self._least_delivered()
        lines = [
            f"**In short:** with Sluice a no-op task costs {costs} more CPU; delivered: {arrived}."
        ]
        for pool, variants in self._noop.items():
            if (best := results.best_peer(variants)) is None:
                continue
            name, rival = best
            beside = results.beside(variants, name)
            word = "less than" if beside.median < 1 else "**more than**"
            if beside.is_none(results.band(variants)):
                word = "no different from"
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
        return [
            *(found or ["- No other one costs less CPU per no-op task in any pool."]),
            *(f"- **Worse:** {line}" for line in worse(self._found, self._titles)),
        ]

    def _least_delivered(self) -> str:
        shares = [
            share
            for one in self._found["cost"]
            if one["ingest"] == "up"
            and (share := results.delivered(one["variants"][OURS])) is not None
        ]
        if not shares:
            return "not counted"
        return (
            "every start and end" if min(shares) == 1 else f"{min(shares):.2%} of starts and ends"
        )

    def _goals(self) -> str:
        goals = Goals(self._found)
        return table([["figure", "goal", "found", ""], *goals.rows()])

    def _rate(self) -> str:
        """At how many tasks per second latency was measured."""
        rates = {one["rate"] for one in self._found["latency"]}
        return " and ".join(f"{rate:.0f}" for rate in sorted(rates)) or "some"

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
        failed = [
            f"{one['pool']}, {one['work']}, API {one['ingest']}: {one['error']}"
            for one in self._found.get("failed", ())
        ]
        return " ".join(
            [
                *([f"Not to be had on this machine: {', '.join(missing)}."] if missing else []),
                *([f"Not measured, because it failed: {'; '.join(failed)}."] if failed else []),
            ]
        )

    def _why(self) -> str:
        """Why the goal for CPU is missed, where this run shows it."""
        floors = [results.ratio(one, "floor") for one in self._noop.values() if "floor" in one]
        if not floors or min(one.median for one in floors) <= CPU_GOAL:
            return ""
        low, high = (pick(one.median for one in floors) for pick in (min, max))
        return _WHY.format(goal=CPU_GOAL, floor=f"{low:.3f} to {high:.3f}")


def _pair(low: float, high: float) -> str:
    first, last = (f"{(one - 1) * 100:.0f}" for one in (low, high))
    return f"{first} to {last} %" if first != last else f"{first} %"


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
