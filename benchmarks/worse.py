"""Where Sluice is worse than another one that delivers: a line for each figure, whatever it is.

Of CPU per no-op task the page says so by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from benchmarks import results
from benchmarks.plan import BURST, NOOP, OURS
from benchmarks.results import Comparison, Record

#: How much more than another's a figure of one worker is before it is called worse.
_MORE: Final = 1.05
Figure = Callable[[Comparison, str], float | None]


def _footprint(name: str) -> Figure:
    def figure(variants: Comparison, variant: str) -> float | None:
        value: float | None = variants[variant]["footprint"][name]
        return value

    return figure


def _once(name: str) -> Figure:
    def figure(variants: Comparison, variant: str) -> float | None:
        value: float | None = variants[variant][name]
        return value

    return figure


def _kib(variants: Comparison, variant: str) -> float | None:
    counts = variants[variant]["delivered"]
    return float(counts["bytes"] / 1024 / (counts["given"] / 1000)) if counts.get("bytes") else None


def _idle(variants: Comparison, variant: str) -> float | None:
    return float(variants[variant]["idle"] * 1e3)


#: What is said of a figure, its unit, and how it is found.  More is worse in all of them.
_FIGURES: Final[tuple[tuple[str, str, Figure], ...]] = (
    ("memory of MAIN (PSS)", "MiB", _footprint("main_mib")),
    ("memory of a child (PSS)", "MiB", _footprint("child_mib")),
    ("threads of MAIN", "", _footprint("main_threads")),
    ("sockets", "", _footprint("sockets")),
    ("start of a worker", "s", _once("startup")),
    ("TERM to exit", "s", _once("exit")),
    ("CPU of an idle worker", "ms/s", _idle),
    ("bytes to the API per 1,000 tasks", "KiB", _kib),
)


def worse(found: Record, titles: Mapping[str, str]) -> list[str]:
    """The lines, without what comes before them."""
    noop = results.comparisons(found, work=NOOP.name)
    lines = []
    for what, unit, figure in _FIGURES:
        pools = {}
        for pool, variants in noop.items():
            mine, best = figure(variants, OURS), _best(variants, figure)
            if mine is not None and best is not None and mine > _MORE * best[1]:
                name, value = best
                pools[pool] = f"{pool} {mine:.3g}, {titles[name]} {value:.3g}"
        if pools:
            lines.append(f"{what}{f', {unit}' if unit else ''}: {'; '.join(pools.values())}.")
    return lines + [_works(found, titles, work) for work in _dearer(found)]


def _best(variants: Comparison, figure: Figure) -> tuple[str, float] | None:
    values = {name: figure(variants, name) for name in results.rivals(variants)}
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return None
    name = min(known, key=lambda one: known[one])
    return name, known[name]


def _comparisons_but_noop(found: Record) -> Iterable[Record]:
    return (one for one in found["cost"] if one["ingest"] == "up" and one["work"] != NOOP.name)


def _dearer(found: Record) -> list[str]:
    """Workloads in which another one that delivers costs less CPU, in some pool."""
    return list(
        dict.fromkeys(
            one["work"] for one in _comparisons_but_noop(found) if _cheapest(one["variants"])
        )
    )


def _cheapest(variants: Comparison) -> str | None:
    """The cheapest of the rivals, if it is cheaper by more than two equals differ by."""
    if (best := results.best_peer(variants)) is None:
        return None
    more = results.beside(variants, best[0])
    return best[0] if more.median > 1 and not more.is_none(results.band(variants)) else None


def _works(found: Record, titles: Mapping[str, str], work: str) -> str:
    pools = []
    for one in _comparisons_but_noop(found):
        name = _cheapest(one["variants"]) if one["work"] == work else None
        if name is not None:
            more = results.beside(one["variants"], name)
            pools.append(f"{one['pool']} {results.percent(more.median)} beside {titles[name]}")
    unit = "CPU of a burst" if work == BURST.name else f"CPU per task, {work}"
    return f"{unit}: {'; '.join(pools)}."
