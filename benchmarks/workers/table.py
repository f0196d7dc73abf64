"""The table of what several workers cost in the documentation.

    python -m benchmarks.workers.table

writes it into docs/benchmarks.md, between the two marks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.page import put

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "workers.json"


def table(results: dict[str, Any]) -> str:
    """What was measured as Markdown."""
    lines = [
        "| workers | a step together | as many, each alone with its share | of the step for the team | difference |"
    ]
    lines.append("| ---: | ---: | ---: | ---: | ---: |")
    for row in results["rows"]:
        share = max(0.0, 1 - row["alone"] / row["together"])
        told = [f"{row['together'] * 1000:.1f} ms", f"{row['alone'] * 1000:.1f} ms", f"{share:.0%}"]
        lines.append(f"| {row['workers']} | {' | '.join(told)} | {row['difference']:.1g} |")
    made = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return "\n".join([*lines, "", f"{made}; {results['machine']}; {results['date']}.", ""])


def main() -> None:
    shown = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    put("workers", shown)


if __name__ == "__main__":
    main()
