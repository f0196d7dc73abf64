"""The tables of docs/scale.md: what was measured of examples, and what follows for a hundred million.

    python -m benchmarks.scale.table

writes them into the page, between their marks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.page import DOCS, put

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
SPEED = RESULTS.with_name("speed.json")
PAGE = DOCS / "scale.md"

EXAMPLES, WORKERS = 100_000_000, 256
LOCAL = 8  # workers of one machine
TRAINED = 4096 * 1000 + 1000  # numbers that learn, in a head of a thousand classes on `fc7`


def rates(results: dict[str, Any]) -> dict[str, float]:
    """What one example, byte or batch costs, by name: seconds or bytes."""
    found, sizes = results["measured"], results["sizes"]
    (index,), (start,), (pictures,), (store,) = (found[n] for n in ("index", "start", "index of pictures", "store"))
    (rows,), (pictured,) = found["rows"], found["rows of pictures"]
    order = found[f"order of {EXAMPLES}"][0]
    count = start["examples"]
    return {
        "index": index["seconds"] / index["examples"],
        "index by two": max(one["seconds"] for one in found["index by two"]) / index["examples"],
        "index of a byte": pictures["seconds"] / (pictures["examples"] * sizes["picture"]),
        "index bytes": found["index bytes"] / index["examples"],
        "reading": start["reading"] / count,
        "settling": (start["splitting"] + start["digests"] + start["alike"]) / count,
        "keys": start["keys"] / count,
        "resident": start["resident"] / count,
        "peak": start["peak"] / count,
        "row": rows["seconds"] / rows["rows"],
        "picture row": pictured["seconds"] / pictured["rows"],
        "order": order["seconds"] / order["steps"],
        "kept byte": store["writing"] / store["bytes"],
        "kept row": store["reading"] / store["rows_read"],
    }


def table(results: dict[str, Any]) -> str:
    """What was measured as Markdown."""
    rate, sizes, found = rates(results), results["sizes"], results["measured"]
    count, pictures = found["index"][0]["examples"], found["index of pictures"][0]["examples"]
    small, large = f"{count:,} of {sizes['small']} bytes", f"{pictures:,} of {sizes['picture']:,} bytes"
    orders = {int(n.removeprefix("order of ")): r[0] for n, r in found.items() if n.startswith("order of ")}
    both = " and ".join(str(one["shards"]) for one in found["index by two"])
    lines = [
        "| what | measured with | found |",
        "| --- | --- | ---: |",
        f"| first start, one worker: every record is read | {small} | {1e6 * rate['index']:.3g} s per 10⁶ |",
        f"| the same by two workers that start at once, which read {both} of {sizes['shards']} shards | {small} | "
        f"{1e6 * rate['index by two']:.3g} s per 10⁶ |",
        f"| first start, large records | {large} | {1e-6 / rate['index of a byte']:.3g} MB/s |",
        f"| the index on disk | {small} | {rate['index bytes']:.3g} bytes an example |",
        f"| later start: the index is read | {small} | {1e6 * rate['reading']:.3g} s per 10⁶ |",
        f"| each start: split, digests, copies looked for | {small} | {1e6 * rate['settling']:.3g} s per 10⁶ |",
        f"| each start with a cache: the names of what is kept | {small} | {1e6 * rate['keys']:.3g} s per 10⁶ |",
        f"| memory of a worker for the examples, TensorFlow not counted | {small} | "
        f"{rate['resident']:.0f} bytes an example |",
        f"| the same at most, during the start | {small} | {rate['peak']:.0f} bytes an example |",
        *(
            f"| which examples a step takes, {sizes['batch']} of them | of {n:,} | "
            f"{1e3 * one['seconds'] / one['steps']:.2g} ms |"
            for n, one in sorted(orders.items())
        ),
        f"| rows from anywhere in the shards, one thread | {small} | {1 / rate['row']:,.0f} a second |",
        f"| the same, large records | {large} | {1 / rate['picture row']:,.0f} a second |",
        f"| features written and synced | rows of {sizes['width']:,} floats | {1e-6 / rate['kept byte']:,.0f} MB/s |",
        f"| features read in any order | rows of {sizes['width']:,} floats | {1 / rate['kept row']:,.0f} a second |",
    ]
    made = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    load = f"other work had {results['load']:.1f} processes at it when this began"
    return "\n".join([*lines, "", f"{made}; {results['machine']}, {load}; {results['date']}.", ""])


def planned(results: dict[str, Any]) -> str:
    """What follows for many examples and workers, as Markdown: each number a product of what was measured."""
    rate, sizes = rates(results), results["sizes"]
    speed = json.loads(SPEED.read_text(encoding="utf-8"))["times"]
    frozen = speed["vgg16 frozen"][0]
    forward = frozen["finetune"]["first"] / frozen["examples"]
    saving = speed["once"][0]["saving"] - speed["once"][0]["quiet"]
    share, kept = EXAMPLES / WORKERS, 4 * sizes["width"]
    start = EXAMPLES * (rate["reading"] + rate["settling"])
    lines = [
        "| what | reckoned as | |",
        "| --- | --- | ---: |",
        f"| first start, small records, work shared | 10⁸ / {WORKERS} × seconds an example | "
        f"{told(share * rate['index'])} |",
        f"| the same by each worker for itself (`cache.mode=off`) | 10⁸ × seconds an example | "
        f"{told(EXAMPLES * rate['index'])} |",
        f"| first start, records of {sizes['picture']:,} bytes, work shared | 10⁸ / {WORKERS} × bytes / rate | "
        f"{told(share * sizes['picture'] * rate['index of a byte'])} |",
        f"| every start: the index read, split, digests | 10⁸ × seconds an example | {told(start)} |",
        f"| the index on disk | 10⁸ × bytes an example | {sized(EXAMPLES * rate['index bytes'])} |",
        f"| what all workers read of it at a start | {WORKERS} × that | "
        f"{sized(WORKERS * EXAMPLES * rate['index bytes'])} |",
        f"| memory of a worker for the examples, TensorFlow not counted | 10⁸ × bytes an example | "
        f"{sized(EXAMPLES * rate['resident'])} |",
        f"| the same at most, during the start | 10⁸ × bytes an example | {sized(EXAMPLES * rate['peak'])} |",
        f"| of {LOCAL} workers on one machine | {LOCAL} × that | {sized(LOCAL * EXAMPLES * rate['peak'])} |",
        f"| which examples a step takes | measured at 10⁸ | {told(rate['order'])} |",
        f"| {sizes['batch']} small rows of a step | {sizes['batch']} / rows a second | "
        f"{told(sizes['batch'] * rate['row'])} |",
        f"| {sizes['batch']} rows of {sizes['picture']:,} bytes | {sizes['batch']} / rows a second | "
        f"{told(sizes['batch'] * rate['picture row'])} |",
        f"| an epoch's rows of {sizes['picture']:,} bytes, all workers | 10⁸ / {WORKERS} / rows a second | "
        f"{told(share * rate['picture row'])} |",
        f"| features of {sizes['width']:,} floats | 10⁸ × {kept:,} bytes | {sized(EXAMPLES * kept)} |",
        f"| the same in float16 | 10⁸ × {kept // 2:,} bytes | {sized(EXAMPLES * kept / 2)} |",
        f"| their forward pass: VGG-16 on two cores, all workers | 10⁸ / {WORKERS} × [speed](benchmarks.md) | "
        f"{told(share * forward)} |",
        f"| their writing, all workers, each at the rate of this disk | 10⁸ / {WORKERS} × bytes / rate | "
        f"{told(share * kept * rate['kept byte'])} |",
        f"| gradients that a worker sends and gets in a step, a head of 1,000 classes | 2 × 4 bytes × {TRAINED:,} | "
        f"{sized(8 * TRAINED)} |",
        f"| a step longer for a save of 537 MB, the chief alone | [speed](benchmarks.md) | {told(saving)} |",
        f"| a killed worker: all start again | a start, and the next step | {told(start + _resumed(speed))} |",
    ]
    return "\n".join([*lines, ""])


def _resumed(speed: dict[str, Any]) -> float:
    return speed["once"][0]["resumed"]["100"]


def told(seconds: float) -> str:
    """A time for people.

    >>> told(0.00234), told(5.0), told(100.0), told(5000.0), told(400000.0)
    ('2.3 ms', '5.0 s', '100 s', '83 min', '4.6 days')
    """
    for least, unit, size in ((172_800, "days", 86_400), (7_200, "h", 3_600), (300, "min", 60), (1, "s", 1)):
        if seconds >= least:
            return f"{seconds / size:,.0f} {unit}" if seconds / size >= 10 else f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.1 else f"{seconds * 1e3:.2g} ms"


def sized(size: float) -> str:
    """Bytes for people.

    >>> sized(33e6), sized(3.5e9), sized(1.64e12)
    ('33 MB', '3.5 GB', '1.6 TB')
    """
    for least, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= least:
            return f"{size / least:,.0f} {unit}" if size / least >= 10 else f"{size / least:.1f} {unit}"
    return f"{size:,.0f} bytes"


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    put("scale", table(results), PAGE)
    put("scale plan", planned(results), PAGE)


if __name__ == "__main__":
    main()
