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
    return [
        one["variants"][name][what]
        for one in found["cost"]
        if (one["pool"], one["ingest"]) == (pool, "up") and name in one["variants"]
    ]


def latency(
    variants: Comparison, name: str, what: str = "sent_to_done", share: str = "p99"
) -> Interval:
    """A quantile of a variant's latencies over that of the baseline, cycle by cycle."""
    mine, base = ([shares[share] for shares in variants[one][what]] for one in (name, BASE))
    return interval(ratios(mine, base))


def delivered(one: Comparison) -> float | None:
    """The share of starts and ends of tasks that arrived; None where nothing is delivered."""
    told, given = one["delivered"]["tasks"], one["delivered"]["given"]
    if not told:
        return None
    ends = told.get("succeeded", 0) + told.get("failed", 0)
    share: float = (told.get("started", 0) + ends) / (2 * given)
    return share


def best_peer(variants: Comparison) -> tuple[str, Interval] | None:
    """The cheapest other variant that delivers enough."""
    rivals = {
        name: ratio(variants, name)
        for name, one in variants.items()
        if name not in (BASE, AGAIN, OURS) and (delivered(one) or 0) >= ENOUGH
    }
    if not rivals:
        return None
    name = min(rivals, key=lambda rival: rivals[rival].median)
    return name, rivals[name]


def cheaper_than_ours(variants: Comparison) -> dict[str, tuple[Interval, float]]:
    """Peers that cost less than Sluice, whatever they deliver: their ratio, and that share."""
    ours = ratio(variants, OURS).median
    return {
        name: (ratio(variants, name), delivered(one) or 0.0)
        for name, one in variants.items()
        if name not in (BASE, AGAIN, OURS)
        and delivered(one) is not None
        and ratio(variants, name).median < ours
    }


def stall_added(kinds: dict[str, dict[str, list[float]]], name: str, *, kind: str = OURS) -> float:
    """Milliseconds more than in an idle hub, of a quantile of the stalls, round by round.

    By Sluice, or in another `kind` of process: in "again" two equals differ by it.
    """
    pairs = zip(kinds[kind][name], kinds["idle"][name], strict=True)
    return statistics.median(mine - idle for mine, idle in pairs)


def percent(value: float) -> str:
    """A ratio as what it adds: 1.083 is "+8.3 %"."""
    return f"{(value - 1) * 100:+.1f} %"
