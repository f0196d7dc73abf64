"""The table of the speeds in the documentation, from the times that were taken.

    python -m benchmarks.speed.table

writes it into docs/benchmarks.md, between the two marks.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.page import put

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
PEERS = {
    "tutorial": "the tutorial's script",
    "keras": "Keras `fit`",
    "by_hand": "TensorFlow by hand",
    "pytorch": "PyTorch",
    "hub": "text bottlenecks",
}
JOB = 20
INTERVAL = 600.0  # seconds between two checkpoints, by default
OTHERS = {
    "demo": "VGG of the demo's size",
    "norms": "convolutions with batch norms",
    "lstm": "LSTM over 24 steps",
}
# row -> what was measured, of which the first or each later part counts
ROWS = {
    "first epoch": ("frozen", "first"),
    "later epochs": ("frozen", "later"),
    "from conv5 on, first epoch": ("prefix", "first"),
    "from conv5 on, later epochs": ("prefix", "later"),
    "full step": ("full", "later"),
}
WHOLE = f"{JOB} epochs"
# (row, the peer) -> how many times as fast ours is to be
BARS = {
    ("first epoch", "tutorial"): 1.15,
    ("first epoch", "keras"): 1.15,
    ("first epoch", "pytorch"): 1.15,
    ("later epochs", "tutorial"): 1000.0,
    ("later epochs", "keras"): 1000.0,
    (WHOLE, "tutorial"): 20.0,
    (WHOLE, "keras"): 20.0,
    ("from conv5 on, later epochs", "keras"): 3.0,
    ("full step", "by_hand"): 1.0,
    ("full step", "keras"): 1.08,
    ("full step", "pytorch"): 1.3,
}
Results = dict[str, Any]


def seconds(results: Results, net: str, what: str, part: str, who: str = "finetune") -> float:
    """The median of the seconds that a part took."""
    found = [each[who][part] for each in results["times"].get(f"{net} {what}", []) if part in each.get(who, {})]
    return median(second for one in found for second in (one if isinstance(one, list) else [one]))


def ratios(results: Results, net: str, what: str, part: str, who: str) -> list[float]:
    """How many times as long another took, each time beside ours that was measured in turns with it."""
    found: list[float] = []
    for each in results["times"].get(f"{net} {what}", []):
        if who in each:
            theirs, own = ([one] if isinstance(one := each[name][part], float) else one for name in (who, "finetune"))
            found += [other / mine for other, mine in zip(theirs, own, strict=False)]
    return found


def whole(results: Results, who: str) -> float:
    """Seconds of the whole job: of ours as it took, of another from its start and its epochs."""
    jobs = results["times"].get("job", [])
    if who == "finetune":
        return median(job["whole"] for job in jobs)
    start, first, later = (seconds(results, "vgg16", "frozen", part, who) for part in ("ready", "first", "later"))
    return start + (first + (JOB - 1) * later) * jobs[-1]["images"] / _examples(results)


def _examples(results: Results) -> int:
    """How many there were in an epoch of VGG-16."""
    return results["times"]["vgg16 frozen"][-1]["examples"]


def compared(results: Results) -> dict[str, dict[str, list[float]]]:
    """row -> who -> how many times as long it takes as ours, each time that it was measured."""
    found = {
        row: {who: times for who in PEERS if (times := ratios(results, "vgg16", what, part, who))}
        for row, (what, part) in ROWS.items()
    }
    if results["times"].get("job"):
        peers = [who for who in PEERS if who in found["first epoch"]]
        found[WHOLE] = {who: [whole(results, who) / whole(results, "finetune")] for who in peers}
    return found


def is_complete(results: Results) -> bool:
    """Whether there is all that the table cannot be without."""
    return {"limits", "job", *(f"vgg16 {what}" for what, _ in ROWS.values())} <= results["times"].keys()


def table(results: Results) -> str:
    """The measured times as Markdown: seconds of ours, and how many times as long the others take."""
    found = compared(results)
    parts = [_compared(results, found), limits(results), once(results), bars(found), others(results), _said(results)]
    return "\n".join(line for part in parts if part for line in (*part, ""))


def _compared(results: Results, found: dict[str, dict[str, list[float]]]) -> list[str]:
    lines = _header("VGG-16")
    for row, others in found.items():
        job = f", {results['times']['job'][-1]['images']:,} images" if row == WHOLE else ""
        own = whole(results, "finetune") if row == WHOLE else seconds(results, "vgg16", *ROWS[row])
        lines.append(_line(row + job, own, others))
    used = {who: _memory(results, who) for who in PEERS}
    shown = [f"{used[who] / _memory(results, 'finetune'):.2f} ×" if used[who] else "" for who in PEERS]
    return [*lines, _joined("memory of a full step", f"{_memory(results, 'finetune') / 1e9:.2f} GB", *shown)]


def _header(first: str) -> list[str]:
    return [_joined(first, "finetune", *PEERS.values()), _joined("---", *["---:"] * (1 + len(PEERS)))]


def _line(row: str, own: float, others: dict[str, list[float]]) -> str:
    return _joined(row, f"{own:.3g} s", *(spread(others[who]) if who in others else "" for who in PEERS))


def _joined(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def spread(found: list[float]) -> str:
    """The median, and the least and the most where there are several."""
    shown = f"{figure(median(found))} ×"
    return shown if len(found) == 1 else f"{shown} ({figure(min(found))} to {figure(max(found))})"


def figure(number: float) -> str:
    """Three digits of it, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _memory(results: Results, who: str) -> float:
    return max((each[who]["memory"] for each in results["times"].get("vgg16 full", []) if who in each), default=0)


def limits(results: Results) -> list[str]:
    """What the machine reached in the same run, and how near to it ours is."""
    best = {key: median(each[key] for each in results["times"]["limits"]) for key in ("gflops", "gigabytes", "images")}
    forward = results["operations"] * _examples(results) / seconds(results, "vgg16", "frozen", "first") / 1e9
    # A step goes forward once, and back once for the values and once for the weights.
    step = 3 * results["operations"] * results["batch"] / seconds(results, "vgg16", "full", "later") / 1e9
    rate = best["gflops"]
    said = (
        f"The machine multiplied matrices at {rate:.0f} GFLOP/s by TensorFlow's default, copied"
        f" {best['gigabytes']:.1f} GB/s and decoded {best['images']:.0f} images/s. The first epoch of ours computed"
        f" {forward:.0f} GFLOP/s ({forward / rate:.0%}), a full step {step:.0f} ({step / rate:.0%})."
    )
    decoded = ratios(results, "vgg16", "full", "later", "decoded")
    input_said = f"A full step with images that are decoded already takes {median(decoded):.3f} times as long."
    return [said, *[input_said] * bool(decoded)]


def once(results: Results) -> list[str]:
    """What is done once, or now and then, and what it is to be measured by."""
    if not (times := results["times"].get("once")):
        return []
    taken = {key: median(each[key] for each in times) for key in ("import", "ready", "refused", "saving", "quiet")}
    resumed = {int(k): median(each["resumed"][k] for each in times) for k in times[0]["resumed"]}
    stall = max(0.0, taken["saving"] - taken["quiet"])
    stalled = f"{stall:.2g} s longer, {stall / INTERVAL:.2%} of the default interval of ten minutes"
    steps = " and ".join(f"{seconds:.1f} s at step {step:,}" for step, seconds in resumed.items())
    return [
        "| once, or now and then | finetune |",
        "| --- | --- |",
        f"| `recipe=vgg_2class` until its first step (`import tensorflow` alone: {taken['import']:.1f} s)"
        f" | {taken['ready']:.1f} s |",
        f"| a key that is wrong, until that is said | {taken['refused']:.2f} s |",
        f"| VGG-16 from conv5 on, a step after which 537 MB are saved | {stalled} |",
        f"| going on, until the next step | {steps} |",
    ]


def bars(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """What was to be reached, and whether it is."""
    lines = ["| bar | wanted | reached |", "| --- | ---: | ---: |"]
    for (row, who), wanted in BARS.items():
        if who in found.get(row, {}):
            ratio = median(found[row][who])
            missed = "" if ratio >= wanted else " (not met)"
            lines.append(f"| {row}, {PEERS[who]} | {wanted:g} × | {figure(ratio)} ×{missed} |")
    return lines


def others(results: Results) -> list[str]:
    """The smaller nets, on arrays: epochs of a head, and epochs of all layers."""
    lines = _header("an epoch of 2,560 examples")
    for net, said in OTHERS.items():
        for what, words in (("frozen", "later epochs of a head"), ("full", "all layers")):
            if f"{net} {what}" in results["times"]:
                found = {who: times for who in PEERS if (times := ratios(results, net, what, "later", who))}
                lines.append(_line(f"{said}, {words}", seconds(results, net, what, "later"), found))
    return lines if len(lines) > 2 else []


def _said(results: Results) -> list[str]:
    made = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    count = f"{_examples(results)} images of VGG-16, {results['batch']} at once"
    return [f"{count}. {made}; {results['machine']}; {results['date']}."]


def main() -> None:
    shown = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    put("speed", shown)


if __name__ == "__main__":
    main()
