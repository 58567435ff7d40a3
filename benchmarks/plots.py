"""The page's pictures: SVG, on no background of their own, in greys that both themes can carry."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks import results
from benchmarks.figures import Interval
from benchmarks.plan import AGAIN, NOOP
from benchmarks.results import Record

#: Readable on white and on black: a contrast of 4 to 1 with both.
_TEXT = "#767d86"
_COLOURS = {"sluice": "#2f81f7", "floor": "#8c959f"}
_OTHER = "#bf8700"
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "sluice",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
}


def draw(found: Record, folder: Path) -> None:
    """All of them."""
    noop = results.comparisons(found, work=NOOP.name)
    groups = {pool: results.all_ratios(variants) for pool, variants in noop.items()}
    _ratios(folder / "cpu.svg", groups, results.titles(found))
    for library, states in found["hub"].items():
        shown = {
            kind: {name: statistics.median(values) for name, values in quantiles.items()}
            for kind, quantiles in states["up"].items()
        }
        _stalls(folder / f"stall-{library}.svg", shown)


def _ratios(
    path: Path, groups: Mapping[str, Mapping[str, Interval]], titles: Mapping[str, str]
) -> None:
    """For each pool, the ratio of each variant with its interval; the band of equals is shaded."""
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(groups), figsize=(2.2 * len(groups) + 1.4, 3.0), sharey=True, squeeze=False
        )
        for axis, (pool, found) in zip(axes[0], groups.items(), strict=True):
            band = found[AGAIN]
            axis.axvspan(min(1, band.low), max(1, band.high), color=_TEXT, alpha=0.25, lw=0)
            names = [name for name in titles if name in found and name != AGAIN]
            for place, name in enumerate(reversed(names)):
                one = found[name]
                axis.errorbar(
                    one.median,
                    place,
                    xerr=[[one.median - one.low], [one.high - one.median]],
                    fmt="o",
                    ms=5,
                    capsize=3,
                    color=_COLOURS.get(name, _OTHER),
                )
            axis.set_yticks(range(len(names)), [titles[name] for name in reversed(names)])
            axis.set_title(pool, color=_TEXT)
            axis.grid(axis="x", color=_TEXT, alpha=0.25)
            axis.axvline(1, color=_TEXT, lw=1)
            for side in ("top", "right", "left"):
                axis.spines[side].set_visible(False)
        _save(figure, path)


def _stalls(path: Path, found: Mapping[str, Mapping[str, float]]) -> None:
    """Quantiles of the hub's stalls by kind of process, in milliseconds; one line per kind."""
    with mpl.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(6, 2.8))
        for kind, quantiles in found.items():
            colour = _COLOURS.get(kind, _TEXT if kind == "idle" else _OTHER)
            axis.plot(list(quantiles), list(quantiles.values()), "o-", color=colour, label=kind)
        axis.set_yscale("log")
        axis.set_ylabel("late by, ms")
        axis.grid(axis="y", color=_TEXT, alpha=0.25)
        axis.legend(frameon=False, labelcolor=_TEXT)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
