"""The table of what torture leaves in the documentation.

    python -m benchmarks.torture.table

writes it into docs/benchmarks.md, between the two marks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.page import put

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "torture.json"
SIDES = {"finetune": "finetune", "plain": "plain TensorFlow"}
ROWS = {
    "killed": "killed at a call",
    "power": "power lost at a call: what was synced is there",
    "names": "power lost at a call: names are there, contents as synced",
    "full": "disk full from a call on, for 40 calls",
    "failing": "disk that fails, is over quota or cannot be written from a call on, for 40 calls",
    "stays": "disk full from a call on, until the process ends",
    "random": "runs killed again and again at random moments, among 1,000 files of others",
    "term": "runs asked to end (SIGTERM) again and again, among 1,000 files of others",
    "storm": "runs in storms of signals again and again, some while they save, among 1,000 files of others",
}
# What else may come out, worst first; and what may be said of those that end with the same bits.
WORDS = {
    "destroyed": "files of others destroyed",
    "lost": "steps lost",
    "refused": "cannot go on",
    "other": "other bits",
    "bug": "ended as no run should",
}
SAME = {
    "ended": "of them only when the command was given again",
    "litter": "of them with files left over",
}


def table(results: dict[str, Any]) -> str:
    """What came out, as Markdown: how often the same bits, and what else."""
    there = [side for side in SIDES if side in results["sides"]]
    lines = [_joined("fault", *(SIDES[side] for side in there)), _joined("---", *["---"] * len(there))]
    for row, said in ROWS.items():
        cells = [_said(results["sides"][side], row) for side in there]
        if any(cells):
            lines.append(_joined(said, *cells))
    counted = [side for side in there if results["sides"][side]["calls"]]
    calls = ", ".join(f"{results['sides'][side]['calls']} of {SIDES[side]}" for side in counted)
    made = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    said = f"Calls that change files in an undisturbed run: {calls}."
    return "\n".join([*lines, "", f"{said} {made}; {results['machine']}; {results['date']}.", ""])


def _joined(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _said(side: dict[str, Any], row: str) -> str:
    """How many ended with the same bits, what became of the others, and how often they were struck."""
    outcomes = side["outcomes"].get(row, {})
    if not (count := sum(outcomes.values())):
        return ""
    others = [f"{outcomes[kind]} {said}" for kind, said in (SAME | WORDS).items() if outcomes.get(kind)]
    same = sum(outcomes.get(kind, 0) for kind in ("same", *SAME))
    said = ", ".join([f"{same} of {count} the same bits", *others])
    if struck := side.get("strikes", {}).get(row):
        runs = "1 run" if count == 1 else f"{count} runs"
        said += f"; {struck['strikes']} {struck['called']} in {runs}, {struck['training']} of them in training, "
        said += f"up to {struck['most']} of one"
        said += f", ended within {struck['seconds']:.1f} s" if struck["called"] != "kills" else ""
    return said


def main() -> None:
    shown = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    put("torture", shown)


if __name__ == "__main__":
    main()
