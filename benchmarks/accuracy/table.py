"""The table of the accuracies in the documentation, from the numbers that were measured.

    python -m benchmarks.accuracy.table

writes it into docs/benchmarks.md, between the two marks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.page import put

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"


def table(results: dict[str, Any]) -> str:
    """The measured numbers as Markdown."""
    titles = ("set", "method", "learn", "finetune", "Keras `fit`", "finetune − Keras")
    rows = [titles, ("---", "---", "---:", "---:", "---:", "---:")]
    for name, method in dict.fromkeys((run["set"], run["method"]) for run in results["runs"]):
        runs = [run for run in results["runs"] if (run["set"], run["method"]) == (name, method)]
        ours, keras = (np.array([run[side] for run in runs]) for side in ("finetune", "keras"))
        shown = difference(ours - keras)
        rows.append((name, method, f"{runs[0]['learn']:,}", _with_range(ours), _with_range(keras), shown))
    differences = np.array([run["finetune"] - run["keras"] for run in results["runs"]])
    rows.append(("all", "", "", "", "", difference(differences)))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    made = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    apart = max(run["features_differ_by"] for run in results["runs"])
    said = f"Features before training differ by at most {apart:.1e}. {made}; {results['machine']}; {results['date']}."
    return "\n".join([*lines, "", said, ""])


def difference(differences: np.ndarray) -> str:
    """The mean of paired differences and half its 95 % interval (Student's t)."""
    return f"{differences.mean():+.4f} ± {half_width(differences):.4f}"


def half_width(differences: np.ndarray) -> float:
    count = len(differences)
    return (
        float(stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    )


def _with_range(values: np.ndarray) -> str:
    return f"{values.mean():.4f} ({values.min():.4f} to {values.max():.4f})"


def main() -> None:
    shown = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    put("accuracy", shown)


if __name__ == "__main__":
    main()
