"""The table of the speeds in the documentation, from the times that were taken.

    python -m benchmarks.speed.table

writes it into docs/benchmarks.md, between the two marks.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- speed: begin -->\n", "<!-- speed: end -->\n"
PEERS = {
    "tutorial": "the tutorial's script",
    "keras": "Keras `fit`",
    "by_hand": "TensorFlow by hand",
    "pytorch": "PyTorch",
    "hub": "text bottlenecks",
}
JOB = 20
INTERVAL = 600.0  # seconds between two checkpoints, by default
# (row, the peer) -> how many times as fast ours is to be
BARS = {
    ("first epoch", "tutorial"): 1.15,
    ("first epoch", "keras"): 1.15,
    ("first epoch", "pytorch"): 1.15,
    ("later epochs", "tutorial"): 1000.0,
    ("later epochs", "keras"): 1000.0,
    ("20 epochs", "tutorial"): 20.0,
    ("20 epochs", "keras"): 20.0,
    ("from conv5 on, later epochs", "keras"): 3.0,
    ("full step", "by_hand"): 1.0,
    ("full step", "keras"): 1.08,
    ("full step", "pytorch"): 1.3,
}


def seconds(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """row -> who -> the median of the seconds that it took."""
    times = results["times"]
    found: dict[str, dict[str, float]] = {row: {} for row in dict.fromkeys(row for row, _ in BARS)}
    for who in PEERS:
        if frozen := times.get(f"{who} frozen"):
            first, later = (median(f["epochs"][place] for f in frozen) for place in (0, 1))
            if who == "hub":
                found["20 epochs"][who] = median(f["whole"] for f in frozen)
                found["later epochs"][who] = median(median(f["epochs"][1:]) for f in frozen)
                continue
            found["first epoch"][who] = first
            found["later epochs"][who] = later
            start = median(f["whole"] - sum(f["epochs"]) for f in frozen)
            found["20 epochs"][who] = start + first + (JOB - 1) * later
        if prefix := times.get(f"{who} prefix"):
            found["from conv5 on, later epochs"][who] = median(f["epochs"][1] for f in prefix)
        if full := times.get(f"{who} full"):
            found["full step"][who] = median(step for f in full for step in f["steps"][1:])
    ours = times["finetune frozen"]
    found["first epoch"]["finetune"] = median(f["first"] for f in ours)
    found["later epochs"]["finetune"] = median(f["later"] for f in ours)
    found["20 epochs"]["finetune"] = median(f["whole"] for f in ours)
    found["from conv5 on, later epochs"]["finetune"] = median(f["later"] for f in times["finetune prefix"])
    found["full step"]["finetune"] = median(step for f in times["finetune full"] for step in f["steps"])
    return found


def table(results: dict[str, Any]) -> str:
    """The measured times as Markdown: seconds of ours, and how many times as long the others take."""
    found = seconds(results)
    peers = [who for who in PEERS if any(who in row for row in found.values())]
    rows = [["", "finetune", *(PEERS[who] for who in peers)], ["---", *["---:"] * (1 + len(peers))]]
    for name, row in found.items():
        shown = [f"{row[who] / row['finetune']:,.3g} ×" if who in row else "" for who in peers]
        rows.append([name, f"{row['finetune']:.3g} s", *shown])
    memory = {who: _memory(results, who) for who in ["finetune", *peers]}
    shown = [f"{memory[who] / memory['finetune']:.2f} ×" if memory[who] else "" for who in peers]
    rows.append(["memory of a full step", f"{memory['finetune'] / 1e9:.2f} GB", *shown])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    made = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    said = f"{results['images']} images, {results['batch']} at once. {made}; {results['machine']}; {results['date']}."
    told = [*lines, "", *limits(results, found), "", *once(results, found), "", *bars(found), "", said, ""]
    return "\n".join(told)


def _memory(results: dict[str, Any], who: str) -> float:
    return median(f["memory"] for f in results["times"].get(f"{who} full", [{"memory": 0}]))


def limits(results: dict[str, Any], found: dict[str, dict[str, float]]) -> list[str]:
    """What the machine reached in the same run, and how near to it ours is."""
    best = {key: median(each[key] for each in results["times"]["limits"]) for key in ("gflops", "gigabytes", "images")}
    forward = results["operations"] * results["images"] / found["first epoch"]["finetune"] / 1e9
    # A step goes forward once, and back once for the values and once for the weights.
    step = 3 * results["operations"] * results["batch"] / found["full step"]["finetune"] / 1e9
    rate = best["gflops"]
    return [
        f"The machine multiplies matrices at {rate:.0f} GFLOP/s by TensorFlow's default, copies"
        f" {best['gigabytes']:.1f} GB/s and decodes {best['images']:.0f} images/s. The first epoch of ours computes"
        f" {forward:.0f} GFLOP/s ({forward / rate:.0%}), a full step {step:.0f} ({step / rate:.0%})."
    ]


def once(results: dict[str, Any], found: dict[str, dict[str, float]]) -> list[str]:
    """What is done once, or now and then, and what it is to be measured by."""
    times = results["times"]["once"]
    taken = {key: median(each[key] for each in times) for key in ("import", "ready", "refused", "saving")}
    resumed = {int(k): median(each["resumed"][k] for each in times) for k in times[0]["resumed"]}
    stall = max(0.0, taken["saving"] - found["from conv5 on, later epochs"]["finetune"] / _batches(results))
    stalled = f"{stall:.2g} s longer, {stall / INTERVAL:.2%} of the default interval of ten minutes"
    steps = " and ".join(f"{seconds:.1f} s at step {step:,}" for step, seconds in resumed.items())
    return [
        "| once, or now and then | finetune |",
        "| --- | --- |",
        f"| `recipe=vgg_2class` until its first step (`import tensorflow` alone: {taken['import']:.1f} s)"
        f" | {taken['ready']:.1f} s |",
        f"| a key that is wrong, until that is said | {taken['refused']:.2f} s |",
        f"| from conv5 on, a step after which 537 MB are saved | {stalled} |",
        f"| going on, until the next step | {steps} |",
    ]


def _batches(results: dict[str, Any]) -> int:
    return -(-results["images"] // results["batch"])


def bars(found: dict[str, dict[str, float]]) -> list[str]:
    """What was to be reached, and whether it is."""
    lines = ["| bar | wanted | reached |", "| --- | ---: | ---: |"]
    for (row, who), wanted in BARS.items():
        if who in found[row]:
            ratio = found[row][who] / found[row]["finetune"]
            missed = "" if ratio >= wanted else " (not met)"
            lines.append(f"| {row}, {PEERS[who]} | {wanted:g} × | {ratio:,.3g} ×{missed} |")
    return lines


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    shown = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    PAGE.write_text(before + BEGIN + shown + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
