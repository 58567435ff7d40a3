"""Reading a record: the figures that the page shows and that its sentences are made of."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.figures import Interval, interval, ratios
from benchmarks.plan import AGAIN, BASE, OURS

Record = dict[str, Any]
Comparison = dict[str, Any]

#: What a variant has to deliver of the starts and ends of tasks to be one that is compared with.
ENOUGH = 0.99


def titles(found: Record) -> dict[str, str]:
    """What each variant is called in tables, in their order."""
    return {name: one["title"] for name, one in found["variants"].items()}


def comparisons(found: Record, *, work: str, ingest: str = "up") -> dict[str, Comparison]:
    """Those of one workload in one state of the API, by pool."""
    return {
        one["pool"]: one["variants"]
        for one in found["cost"]
        if (one["work"], one["ingest"]) == (work, ingest)
    }


def ratio(variants: Comparison, name: str, what: str = "cpu_us") -> Interval:
    """A variant's figure over that of the baseline, cycle by cycle."""
    return interval(ratios(variants[name][what], variants[BASE][what]))


def all_ratios(variants: Comparison) -> dict[str, Interval]:
    """Those of all variants but the baseline."""
    return {name: ratio(variants, name) for name in variants if name != BASE}


def band(variants: Comparison, what: str = "cpu_us") -> Interval:
    """What two equal workers differed by in the same comparison."""
    return ratio(variants, AGAIN, what)


def over_all(found: Record, pool: str, name: str, what: str) -> list[float]:
    """A figure that is measured once for a worker, of all workers of a variant with the API up."""
    values = [
        one["variants"][name][what]
        for one in found["cost"]
        if (one["pool"], one["ingest"]) == (pool, "up") and name in one["variants"]
    ]
    return [value for value in values if value is not None]


def latency(
    variants: Comparison, name: str, what: str = "sent_to_done", share: str = "p99"
) -> Interval:
    """A quantile of a variant's latencies over that of the baseline, cycle by cycle."""
    mine, base = ([shares[share] for shares in variants[one][what]] for one in (name, BASE))
    return interval(ratios(mine, base))


def delivered(one: Comparison) -> float | None:
    """The share of starts and ends of tasks that arrived.

    None for who tells nothing by design, and where it was not counted.
    """
    told, given = one["delivered"].get("tasks"), one["delivered"]["given"]
    if told is None or not one["delivered"]["tells"]:
        return None
    share: float = (told.get("started", 0) + _ends(told)) / (2 * given)
    return share


def delivered_of_all(one: Comparison) -> float | None:
    """The same of all that it tells by design: what was received, and sent by tasks, too."""
    counts = one["delivered"]
    told, given, tells = counts.get("tasks"), counts["given"], counts["tells"]
    if told is None or not tells:
        return None
    pairs = [(told.get("started", 0), given), (_ends(told), given)]
    if "received" in tells:
        pairs.append((told.get("received", 0), given))
    if "sent" in tells:
        pairs.append((told.get("sent", 0), counts["sent"]))
    share: float = sum(min(pair) for pair in pairs) / sum(expected for _, expected in pairs)
    return share


def _ends(told: dict[str, int]) -> int:
    return told.get("succeeded", 0) + told.get("failed", 0)


def beside(variants: Comparison, rival: str, what: str = "cpu_us") -> Interval:
    """Sluice's figure over that of another variant, cycle by cycle."""
    return interval(ratios(variants[OURS][what], variants[rival][what]))


def rivals(variants: Comparison, least: float = ENOUGH) -> list[str]:
    """The other variants that deliver at least this share of starts and ends."""
    return [
        name
        for name, one in variants.items()
        if name not in (BASE, AGAIN, OURS) and (delivered(one) or 0.0) >= least
    ]


def best_peer(variants: Comparison) -> tuple[str, Interval] | None:
    """The cheapest other variant that delivers enough."""
    ratios_of = {name: ratio(variants, name) for name in rivals(variants)}
    if not ratios_of:
        return None
    name = min(ratios_of, key=lambda rival: ratios_of[rival].median)
    return name, ratios_of[name]


def cheaper_than_ours(variants: Comparison) -> dict[str, tuple[Interval, float]]:
    """Peers that cost less than Sluice by more than two equals differ, whatever they deliver.

    Their ratio, and the share that they deliver.
    """
    found = {}
    for name in rivals(variants, least=0.0):
        share, more = delivered(variants[name]), beside(variants, name)
        if share is not None and more.median > 1 and not more.is_none(band(variants)):
            found[name] = ratio(variants, name), share
    return found


def stall_added(kinds: dict[str, dict[str, list[float]]], name: str, *, kind: str = OURS) -> float:
    """Milliseconds more than in an idle hub, of a quantile of the stalls, round by round.

    By Sluice, or in another `kind` of process: in "again" two equals differ by it.
    """
    pairs = zip(kinds[kind][name], kinds["idle"][name], strict=True)
    return statistics.median(mine - idle for mine, idle in pairs)


def percent(value: float) -> str:
    """A ratio as what it adds: 1.083 is "+8.3 %"."""
    return f"{(value - 1) * 100:+.1f} %"
