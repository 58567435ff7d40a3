"""The whole proof: every comparison of a plan, one after the other, into one JSON record.

    python -m benchmarks.run [--quick] [--pools gevent,solo] [--variants sluice,sentry] ...

`scripts/bench` runs this and then writes the page (:mod:`benchmarks.page`).  What a machine cannot
do (a peer that cannot be installed, no valgrind) is left out, and the record says so.  With
`--resume` a run that was cut short goes on: what its record has is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import hub_stall, instructions, record, rounds, startup
from benchmarks.environments import Environments, versions
from benchmarks.load import Work
from benchmarks.peers import Peer, named
from benchmarks.plan import AGAIN, BASE, FULL, QUICK, SMOKE, STEPS, Plan
from benchmarks.results import Record
from tests.harness.processes import ROOT

_PARTS = (
    *(sys.executable, "-m", "pytest", "benchmarks", "-q", "-p", "no:randomly"),
    *("-m", "not pool", "--timeout=1800"),
)
#: Steps whose result is one entry of the record, under their name.
_ONCE = ("startup", "instructions", "parts")
Variants = dict[str, tuple[Peer, Path]]


class Run:
    """One run of a plan.  `keep` gets its record after every comparison: hours may be cut short.

    `earlier` is the record of a run to be continued.  Raises :class:`ValueError` where that is of
    another plan, another machine or another Sluice.
    """

    def __init__(
        self,
        plan: Plan,
        environments: Environments,
        keep: Callable[[Record], None],
        earlier: Record | None = None,
    ) -> None:
        self.plan = plan
        self._keep = keep
        self._begun = time.monotonic()
        chosen = [named(name) for name in plan.variants]
        say(f"environments for {', '.join(peer.name for peer in chosen)}")
        pythons, missing = environments.all(chosen)
        self.variants: Variants = {
            peer.name: (peer, pythons[peer.name]) for peer in chosen if peer.name in pythons
        }
        if not instructions.available():
            missing["valgrind"] = "no such command"
        self.found: Record = {
            "about": record.about(plan.name, repr(plan)),
            "variants": {
                name: {"title": peer.title, "versions": _own(peer, python)}
                for name, (peer, python) in self.variants.items()
            },
            "missing": missing,
            "cost": [],
            "latency": [],
            "hub": {},
            "failed": [],
        }
        if earlier is not None:
            _check_same(self.found, earlier)
            self.found = earlier
        self._before: float = self.found["about"].setdefault("seconds", 0)

    def run(self) -> None:
        """All steps of the plan."""
        for step in STEPS:
            if step in self.plan.steps and not (step in _ONCE and step in self.found):
                getattr(self, f"_{step}")()
                self._done()

    def _done(self) -> None:
        """A comparison is done."""
        self.found["about"]["seconds"] = round(self._before + time.monotonic() - self._begun)
        self._keep(self.found)

    def _few(self) -> Variants:
        return {name: one for name, one in self.variants.items() if name in self.plan.few}

    def _works(self) -> None:
        for pool in self.plan.pools:
            for work in self.plan.works:
                self._cost(self.variants, pool, work._replace(cycles=self.plan.cycles))

    def _states(self) -> None:
        plan = self.plan
        for pool in plan.state_pools:
            for state in plan.states:
                work = plan.works[0]._replace(cycles=plan.cycles)
                self._cost(self._few(), pool, work, state)

    def _burst(self) -> None:
        for pool in self.plan.burst_pools:
            self._cost(self.variants, pool, self.plan.burst)

    def _latencies(self) -> None:
        for number, work in enumerate(self.plan.latency_works):
            for pool in (one for one in self.plan.latency_pools if one in self.plan.pools):
                self._latency(self._few() if number else self.variants, pool, work)

    def _startup(self) -> None:
        say("start-up")
        self.found["startup"] = startup.measure(self.plan.startup_rounds)

    def _instructions(self) -> None:
        if instructions.available():
            say("instructions")
            work = self.plan.works[0]._replace(tasks=100)
            self.found["instructions"] = {
                "capture": instructions.of_a_capture(),
                "workers": instructions.of_workers(self.variants, work),
            }

    def _parts(self) -> None:
        say("parts")
        self.found["parts"] = parts()

    def _cost(self, variants: Variants, pool: str, work: Work, state: str = "up") -> None:
        what = {"pool": pool, "work": work.name, "ingest": state}
        if _has(self.found["cost"], what):
            return
        say(f"cost: {pool}, {work.name}, API {state}")
        with self._may_fail(what):
            measured = rounds.compare(variants, pool, work, ingest=state, idle=self.plan.idle)
            self.found["cost"].append({**what, "variants": measured})
        self._done()

    def _latency(self, variants: Variants, pool: str, work: Work) -> None:
        plan, what = self.plan, {"pool": pool, "work": work.name}
        if _has(self.found["latency"], what):
            return
        say(f"latency: {pool}, {work.name}")
        sized = work._replace(tasks=plan.latency_tasks, cycles=plan.latency_cycles)
        rate = plan.rate(pool, work)
        with self._may_fail(what | {"ingest": "up"}):
            measured = rounds.latencies(variants, pool, sized, rate)
            self.found["latency"].append({**what, "rate": rate, "variants": measured})
        self._done()

    @contextlib.contextmanager
    def _may_fail(self, what: Record) -> Iterator[None]:
        """A comparison that fails is told of on the page, and does not take the others with it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever a worker of another tool does
            text = (str(error) or type(error).__name__).splitlines()[0]
            say(f"FAILED: {text}")
            self.found["failed"].append({**what, "error": text})

    def _hub(self) -> None:
        plan = self.plan
        for library in (one for one in hub_stall.LIBRARIES if one in plan.pools):
            known = self.found["hub"].setdefault(library, {})
            for state in (one for one in plan.hub_states if one not in known):
                say(f"hub stall: {library}, API {state}")
                measured = hub_stall.measure(
                    library, state, plan.hub_rate, plan.hub_seconds, plan.hub_rounds
                )
                known[state] = measured
                self._done()


def _with_the_baseline(names: tuple[str, ...]) -> tuple[str, ...]:
    """Nothing can be compared without these two."""
    return (*(one for one in (BASE, AGAIN) if one not in names), *names)


def parts() -> dict[str, dict[str, float]]:
    """The benchmarks of single parts (pytest-benchmark), in microseconds each.

    One that does its part a thousand times in a round says so (``extra_info["times"]``).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parts.json"
        subprocess.run(
            [*_PARTS, f"--benchmark-json={path}"],
            cwd=ROOT,
            check=True,
            stdout=sys.stderr,
        )
        measured = json.loads(path.read_text())["benchmarks"]
    found = {}
    for one in measured:
        each = 1e6 / one["extra_info"].get("times", 1)
        figures = {name: one["stats"][name] * each for name in ("min", "median", "iqr")}
        found[one["name"]] = {"group": one["group"], **figures}
    return found


def say(text: str) -> None:
    """Tell whoever waits what is being done."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _has(comparisons: list[Record], what: dict[str, str]) -> bool:
    return any(what.items() <= one.items() for one in comparisons)


def _check_same(now: Record, earlier: Record) -> None:
    """What counts as the same run is written down in :func:`benchmarks.record.about`."""
    for name in ("plan", "suite", "sluice", "cpu", "cpus", "python", "packages"):
        mine, theirs = now["about"][name], earlier["about"].get(name)
        if mine != theirs:
            raise ValueError(f"cannot go on with a run of another {name}: {theirs!r}, not {mine!r}")
    if now["variants"] != earlier["variants"]:
        raise ValueError("cannot go on with a run of other variants")


def _own(peer: Peer, python: Path) -> dict[str, str]:
    """The versions of what a peer was installed for."""
    wanted = {one.partition("==")[0] for one in peer.requirements}
    return {name: found for name, found in versions(python).items() if name in wanted}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes instead of hours")
    parser.add_argument("--smoke", action="store_true", help="all of it, with tiny sizes")
    parser.add_argument("--pools", help="instead of the plan's, with commas")
    parser.add_argument("--variants", help="instead of the plan's, with commas")
    parser.add_argument("--cycles", type=int, help="turns of each comparison")
    parser.add_argument("--works", help="names of workloads, with commas")
    parser.add_argument("--steps", help=f"with commas, of {', '.join(STEPS)}")
    parser.add_argument("--resume", action="store_true", help="go on with the record there is")
    parser.add_argument("--environments", type=Path, required=True, help="folder to keep them in")
    parser.add_argument("--json", type=Path, required=True, help="where the record goes")
    return parser.parse_args()


def main() -> None:
    """Run the plan and write its record."""
    given = _arguments()
    plan = QUICK if given.quick else SMOKE if given.smoke else FULL
    lists = {name: getattr(given, name) for name in ("pools", "variants", "steps")}
    chosen: dict[str, Any] = {name: tuple(text.split(",")) for name, text in lists.items() if text}
    plan = replace(plan, **chosen)
    plan = replace(plan, variants=_with_the_baseline(plan.variants))
    if given.works:
        plan = replace(plan, works=tuple(w for w in plan.works if w.name in given.works.split(",")))
    if given.cycles:
        plan = replace(plan, cycles=given.cycles)
    earlier = json.loads(given.json.read_text()) if given.resume and given.json.exists() else None
    environments = Environments(given.environments)
    Run(plan, environments, lambda found: record.write(found, given.json), earlier).run()


if __name__ == "__main__":
    main()
