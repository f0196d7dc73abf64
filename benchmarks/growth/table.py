"""The table and the picture of how cost grows, from what was measured.

    python -m benchmarks.growth.table

writes the one into docs/benchmarks.md, between the two marks, and the other into docs/growth.png.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.page import put

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "growth.json"
PICTURE = ROOT / "docs" / "growth.png"
EXPONENTS = np.arange(0.0, 3.001, 0.05)
FLAT = 0.1  # of what there is at the smallest size: what grows by less in all does not grow


@dataclass(frozen=True)
class Law:
    """What was measured at some sizes, as fixed + factor · size ** exponent."""

    fixed: float
    factor: float
    exponent: float

    def at(self, size: Any) -> Any:
        """What it says of a size."""
        return self.fixed + self.factor * np.asarray(size, float) ** self.exponent


def fitted(sizes: Sequence[float], measured: Sequence[float]) -> Law:
    """The law that is nearest to what was measured, each point by its share.

    >>> fitted([1, 10, 100, 1000], [5 + 2 * n for n in (1, 10, 100, 1000)])
    Law(fixed=5.0, factor=2.0, exponent=1.0)
    """
    x, y = np.asarray(sizes, float), np.asarray(measured, float)
    if max(y) < y[0] * (1 + FLAT):
        return Law(round(float(median(y)), 6), 0.0, 0.0)
    tried = []
    for exponent in EXPONENTS[1:]:
        (fixed, factor), off = nnls(np.stack([1 / y, x**exponent / y], 1), np.ones_like(y))
        tried.append((off, Law(round(float(fixed), 9), float(f"{factor:.9g}"), round(float(exponent), 2))))
    return min(tried, key=lambda found: found[0])[1]


def series(points: Sequence[dict[str, Any]], what: str) -> tuple[list[float], list[float]]:
    """The sizes, and the medians of what was measured there."""
    return [p["size"] for p in points], [median(run[what] for run in p["runs"]) for p in points]


def table(results: dict[str, Any]) -> str:
    """What was measured as Markdown."""
    lines = ["| grows | from … to | seconds | grow as | memory | grows as |", "| --- | --- | --- | --- | --- | --- |"]
    for name, axis in results["axes"].items():
        sizes, seconds = series(axis["points"], "seconds")
        memory = [amount / 1e9 for amount in series(axis["points"], "memory")[1]]
        shown = ", ".join(f"{n:.3g}" for n in seconds), ", ".join(f"{n:.2f}" for n in memory)
        told = _told(fitted(sizes, seconds), "s"), _told(fitted(sizes, memory), "GB")
        of = f"{name}: {axis['measured']}"
        lines.append(
            f"| {of} | {', '.join(f'{n:,}' for n in sizes)} | {shown[0]} | {told[0]} | {shown[1]} GB | {told[1]} |"
        )
    made = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return "\n".join([*lines, "", f"{made}; {results['machine']}; {results['date']}.", ""])


def _told(law: Law, unit: str) -> str:
    if not law.factor:
        return "no growth"
    fixed = f"{law.fixed:.2g} {unit} + " if law.fixed else ""
    return f"{fixed}{law.factor:.2g} {unit} · n^{law.exponent:.2f}"


def draw(results: dict[str, Any], place: Path) -> None:
    """One picture an axis: seconds and memory against the size, both in powers of ten."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes = results["axes"]
    figure, squares = plt.subplots(2, len(axes), figsize=(3.1 * len(axes), 5.2), sharex="col", squeeze=False)
    for column, (name, axis) in enumerate(axes.items()):
        for row, (what, unit, scale, colour) in enumerate(
            (("seconds", "seconds", 1.0, "#1f6feb"), ("memory", "memory, GB", 1e9, "#8250df"))
        ):
            sizes, found = series(axis["points"], what)
            square, law = squares[row][column], fitted(sizes, [n / scale for n in found])
            between = np.geomspace(sizes[0], sizes[-1], 100)
            square.plot(between, law.at(between), color=colour, alpha=0.35)
            square.plot(sizes, [n / scale for n in found], "o", color=colour)
            square.set_xscale("log")
            square.set_yscale("log")
            low, high = min(found) / scale, max(found) / scale
            square.set_ylim(low / 3, max(high * 3, low * 30))  # at least a factor of ten: noise is no growth
            square.set_title(f"n^{law.exponent:.2f}" if law.factor else "no growth", fontsize=9)
            square.grid(alpha=0.25)
            square.spines[["top", "right"]].set_visible(False)
            if not column:
                square.set_ylabel(unit)
            if row:
                square.set_xlabel(name)
    figure.tight_layout()
    figure.savefig(place, dpi=110)


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    put("growth", table(results))
    draw(results, PICTURE)


if __name__ == "__main__":
    main()
