"""The page's tables, each out of one part of a record, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from benchmarks import results
from benchmarks.figures import Interval, interval, ratios
from benchmarks.plan import AGAIN, BASE, BURST, NOOP
from benchmarks.results import Comparison, Record

_STALLS = ("p50", "p99", "p99.9", "max")


class Tables:
    """All of them."""

    def __init__(self, found: Record) -> None:
        self._found = found
        self._titles = results.titles(found)
        self._noop = results.comparisons(found, work=NOOP.name)

    def cpu(self) -> str:
        pools = list(self._noop)
        rows = [["", *pools]]
        base = [statistics.median(self._noop[pool][BASE]["cpu_us"]) for pool in pools]
        rows.append(["us per task without", *(f"{one:.0f}" for one in base)])
        groups = {pool: results.all_ratios(self._noop[pool]) for pool in pools}
        bands = {pool: results.band(self._noop[pool]) for pool in pools}
        rows += [
            [
                self._titles[name],
                *(
                    _or_none(groups[pool][name], bands[pool]) if name in groups[pool] else ""
                    for pool in pools
                ),
            ]
            for name in self._compared()
        ]
        return table(rows)

    def speed(self) -> str:
        heads = "CPU of MAIN, ratio; CPU of children, us per task; tasks per second, ratio"
        rows = [["", "pool", *heads.split("; ")]]
        for pool, variants in self._noop.items():
            for name in variants:
                one = variants[name]
                pairs = zip(one["cpu_us"], one["main_us"], strict=True)
                children = statistics.median(total - main for total, main in pairs)
                base = [1 / value for value in variants[BASE]["task_us"]]
                throughput = interval(ratios([1 / value for value in one["task_us"]], base))
                rows.append(
                    [
                        self._titles[name],
                        pool,
                        str(results.ratio(variants, name, "main_us")),
                        f"{children:.0f}" if pool == "prefork" else "",
                        str(throughput),
                    ]
                )
        return table(rows)

    def works(self) -> str:
        """With what was lost, where something was: a cheap tool that loses events shows both."""
        rows = [["workload", "pool", *self._heads()]]
        for one in self._found["cost"]:
            if one["ingest"] == "up" and one["work"] not in (NOOP.name, BURST.name):
                cells = _cells(one["variants"], self._compared(), _cost_and_loss)
                rows.append([one["work"], one["pool"], *cells])
        return table(rows)

    def latency(self) -> str:
        heads = "workload, pool, tasks a second, from, quantile, nothing: ms"
        rows = [[*heads.split(", "), *self._heads()]]
        for one in self._found["latency"]:
            for what in ("sent_to_done", "started_to_done"):
                for name in ("p50", "p95", "p99"):
                    base = [shares[name] for shares in one["variants"][BASE][what]]
                    rows.append(
                        [
                            one["work"],
                            one["pool"],
                            f"{one['rate']:.0f}",
                            what.replace("_", " "),
                            name,
                            f"{statistics.median(base) * 1e3:.2f}",
                            *_cells(
                                one["variants"],
                                self._compared(),
                                partial(_latency, what=what, share=name),
                            ),
                        ]
                    )
        return table(rows)

    def stall(self) -> str:
        rows = [["hub", "API", "process", *_STALLS]]
        for library, states in self._found["hub"].items():
            for state, kinds in states.items():
                for kind, found in kinds.items():
                    cells = (
                        f"{statistics.median(found[name]):.2f}" if found[name] else ""
                        for name in _STALLS
                    )
                    rows.append([library, state, kind, *cells])
        return table(rows)

    def worker_stall(self) -> str:
        """Of green workers whose tasks come at a pace."""
        rows = [["pool", "workload", "variant", *_STALLS]]
        for one in self._found["latency"]:
            for name, found in one["variants"].items():
                if "stall" in found:
                    cells = (
                        f"{statistics.median(shares[q] for shares in found['stall']) * 1e3:.2f}"
                        for q in _STALLS
                    )
                    rows.append([one["pool"], one["work"], self._titles[name], *cells])
        return table(rows)

    def footprint(self) -> str:
        head = (
            "main MiB: PSS / RSS, child MiB: PSS / RSS, threads of main, of a child, sockets,"
            " start s, TERM to exit s, idle: ms of CPU per s, bytes to the broker per task"
        )
        rows = [["pool", "variant", *head.split(", ")]]
        for pool, variants in self._noop.items():
            for name, one in variants.items():
                foot = one["footprint"]
                rows.append(
                    [
                        pool,
                        self._titles[name],
                        _sizes(foot["main_mib"], foot["main_rss_mib"]),
                        _sizes(foot["child_mib"], foot["child_rss_mib"]),
                        str(foot["main_threads"]),
                        _number(foot["child_threads"], "d"),
                        str(foot["sockets"]),
                        _spread(results.over_all(self._found, pool, name, "startup")),
                        _spread(results.over_all(self._found, pool, name, "exit")),
                        f"{one['idle'] * 1e3:.2f}",
                        f"{statistics.median(one['broker_bytes']):.0f}",
                    ]
                )
        return table(rows)

    def delivery(self) -> str:
        heads = "starts and ends; all that it tells; requests per 1,000 tasks; KiB per 1,000 tasks"
        rows = [["variant", "pool", *heads.split("; ")]]
        for name in self._titles:
            for pool, variants in self._noop.items():
                if name not in variants or (share := results.delivered(variants[name])) is None:
                    continue
                counts = variants[name]["delivered"]
                thousands = counts["given"] / 1000
                rows.append(
                    [
                        self._titles[name],
                        pool,
                        f"{share:.2%}",
                        _number(results.delivered_of_all(variants[name]), ".2%"),
                        f"{counts.get('requests', 0) / thousands:.1f}",
                        f"{counts.get('bytes', 0) / 1024 / thousands:.0f}",
                    ]
                )
        return table(rows)

    def states(self) -> str:
        few = [
            name
            for name in self._compared()
            if any(one["ingest"] != "up" and name in one["variants"] for one in self._found["cost"])
        ]
        rows = [["API", "pool", *(self._titles[name] for name in few)]]
        for one in self._found["cost"]:
            if one["work"] == NOOP.name and one["pool"] in self._state_pools():
                cells = _cells(one["variants"], few, _ratio)
                rows.append([one["ingest"], one["pool"], *cells])
        return table(rows)

    def ends(self) -> str:
        """From TERM to exit in each state of the API."""
        rows = [["API", "pool", *self._titles.values()]]
        for one in self._found["cost"]:
            if one["work"] == NOOP.name and one["pool"] in self._state_pools():
                cells = (_end(one["variants"].get(name)) for name in self._titles)
                rows.append([one["ingest"], one["pool"], *cells])
        return table(rows)

    def burst(self) -> str:
        rows = [["pool", "variant", "CPU per task", "us of CPU", "tasks per second", "delivered"]]
        for pool, variants in results.comparisons(self._found, work=BURST.name).items():
            for name, one in variants.items():
                rows.append(
                    [
                        pool,
                        self._titles[name],
                        _spread(ratios(one["cpu_us"], variants[BASE]["cpu_us"]), ".3f"),
                        _spread(one["cpu_us"], ".0f"),
                        _spread([1e6 / value for value in one["task_us"]], ".0f"),
                        _number(results.delivered(one), ".2%"),
                    ]
                )
        return table(rows)

    def startup(self) -> str:
        rows = [["process", "ms: median (min to max)", "the sender's modules"]]
        for kind, one in self._found.get("startup", {}).items():
            imported = "imported" if one["sender"] else "not imported"
            rows.append([kind, _spread(one["ms"], ".0f"), imported])
        return table(rows)

    def versions(self) -> str:
        """What of each variant was installed beside Celery."""
        rows = [["variant", "version"]]
        for one in self._found["variants"].values():
            if one["versions"]:
                cell = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
                rows.append([one["title"], cell])
        return table(rows)

    def parts(self) -> str:
        rows = [["part, each", "minimum, us", "median, us", "interquartile range, us"]]
        for name, one in self._found.get("parts", {}).items():
            title = name.removeprefix("test_").replace("_", " ")
            figures = (f"{one[what]:,.2f}" for what in ("min", "median", "iqr"))
            rows.append([f"{one['group']}: {title}", *figures])
        return table(rows)

    def instructions(self) -> str:
        found = self._found.get("instructions")
        if not found:
            return "Not counted in this run."
        rows = [["what", "instructions", "over the baseline"]]
        rows.append(["one capture", f"{found['capture']:,.0f}", ""])
        base = found["workers"][BASE]
        for name, count in found["workers"].items():
            rows.append([f"a task, {self._titles[name]}", f"{count:,.0f}", f"{count / base:.3f}"])
        return table(rows)

    def _compared(self) -> list[str]:
        return [name for name in self._titles if name != BASE]

    def _heads(self) -> list[str]:
        return [self._titles[name] for name in self._compared()]

    def _state_pools(self) -> set[str]:
        return {one["pool"] for one in self._found["cost"] if one["ingest"] != "up"}


def _cells(
    variants: Comparison, names: Iterable[str], figure: Callable[[Comparison, str], str]
) -> list[str]:
    """A figure of each; nothing for who was not measured."""
    return [figure(variants, name) if name in variants else "" for name in names]


def _or_none(one: Interval, band: Interval) -> str:
    """A ratio, or that it is none: within what two equals differ by."""
    return f"none: {one}" if one.is_none(band) else str(one)


def _ratio(variants: Comparison, name: str) -> str:
    return _or_none(results.ratio(variants, name), results.band(variants))


def _cost_and_loss(variants: Comparison, name: str) -> str:
    share = results.delivered(variants[name])
    lost = "" if share is None or share == 1 else f", {share:.1%} delivered"
    return _ratio(variants, name) + lost


def _latency(variants: Comparison, name: str, *, what: str, share: str) -> str:
    one, band = (results.latency(variants, who, what, share) for who in (name, AGAIN))
    return _or_none(one, band)


def _end(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    return "did not end" if one["exit"] is None else f"{one['exit']:.2f}"


def _sizes(pss: float | None, rss: float | None) -> str:
    return "" if pss is None or rss is None else f"{pss:.1f} / {rss:.1f}"


def _spread(values: Sequence[float], form: str = ".2f") -> str:
    if not values:
        return ""
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):{form}} to {max(values):{form}})"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def table(rows: Sequence[Iterable[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    if not body:
        return "Not measured in this run."
    return "\n".join([head, "|" + "---|" * len(list(rows[0])), *body])
