"""The table of what torture leaves in the documentation.

    python -m benchmarks.torture.table

writes it into docs/benchmarks.md, between the two marks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "torture.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- torture: begin -->\n", "<!-- torture: end -->\n"
SIDES = {"finetune": "finetune", "plain": "plain TensorFlow"}
ROWS = {
    "killed": "killed at a call",
    "power": "power lost at a call: what was synced is there",
    "names": "power lost at a call: names are there, contents as synced",
    "full": "disk full from a call on, for 40 calls",
    "random": "30 kills of one run at random moments, among 1,000 files of others",
    "storm": "storms of signals at random moments",
}


def table(results: dict[str, Any]) -> str:
    """What came out, as Markdown: how often the same bits, and what else."""
    there = [side for side in SIDES if side in results["sides"]]
    lines = [_joined("fault", *(SIDES[side] for side in there)), _joined("---", *["---"] * len(there))]
    for row, said in ROWS.items():
        cells = [_said(results["sides"][side]["outcomes"].get(row, {})) for side in there]
        if any(cells):
            lines.append(_joined(said, *cells))
    calls = ", ".join(f"{results['sides'][side]['calls']} of {SIDES[side]}" for side in there)
    made = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    said = f"Calls that change files in an undisturbed run: {calls}."
    return "\n".join([*lines, "", f"{said} {made}; {results['machine']}; {results['date']}.", ""])


def _joined(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _said(outcomes: dict[str, int]) -> str:
    """How many of them ended with the same bits, and what became of the others."""
    if not (count := sum(outcomes.values())):
        return ""
    words = {"other": "other bits", "lost": "steps lost", "refused": "cannot go on"}
    others = [f"{outcomes[kind]} {said}" for kind, said in words.items() if outcomes.get(kind)]
    return ", ".join([f"{outcomes.get('same', 0)} of {count} the same bits", *others])


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    shown = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    PAGE.write_text(before + BEGIN + shown + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
