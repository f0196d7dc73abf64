"""What examples cost a worker before and while it trains: an index, each start, memory, an order, rows, features.

    python -m benchmarks.scale FOLDER && python -m benchmarks.scale.table

Everything is measured on shards that are made here, as many as some gigabytes have room for. A second table reckons
from that what a hundred million examples and 256 workers take. Takes some minutes.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.scale.sources import shards
from benchmarks.scale.table import RESULTS, planned, table

SMALL, PICTURE = 32, 100_000  # bytes of an input: eight floats, an encoded photograph
SHARDS = 50
BATCH = 32
ORDERS = (1_000, 1_000_000, 100_000_000)
WIDTH = 4096  # floats that are kept of an example, as of VGG's fc7


def run(*asked: tuple[str, dict[str, Any]]) -> list[dict[str, float]]:
    """What each gives; all of them at once, each in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale.measure"]
    started = [subprocess.Popen([*command, what, json.dumps(words)], stdout=subprocess.PIPE) for what, words in asked]
    said = [one.communicate()[0] for one in started]
    if any(one.returncode for one in started):
        raise RuntimeError(f"{asked} failed")
    return [json.loads(text) for text in said]


def measured(folder: Path, examples: int, pictures: int) -> dict[str, Any]:
    """All of it, by name."""
    small, large = str(folder / "small"), str(folder / "pictures")
    for place, count, size, files in ((small, examples, SMALL, SHARDS), (large, pictures, PICTURE, SHARDS // 5)):
        shutil.rmtree(place, ignore_errors=True)
        shards(Path(place), count, -(-count // files), size)
    for name in ("alone", "shared", "pictures-index", "store"):
        shutil.rmtree(folder / name, ignore_errors=True)
    alone, shared = ({"data": small, "index": str(folder / name / "records")} for name in ("alone", "shared"))
    seen = {"data": large, "index": str(folder / "pictures-index" / "records")}
    found: dict[str, Any] = {}

    def note(name: str, *asked: tuple[str, dict[str, Any]]) -> None:
        found[name] = run(*asked)
        print(name, json.dumps(found[name]), flush=True)

    note("index", ("index", alone))
    note("index by two", *(("index", {**shared, "worker": number, "workers": 2}) for number in range(2)))
    note("index of pictures", ("index", seen))
    found["index bytes"] = sum(file.stat().st_size for file in Path(alone["index"]).iterdir())
    note("start", ("start", alone))
    note("rows", ("rows", {**alone, "count": 20_000 // BATCH * BATCH, "batch": BATCH}))
    note("rows of pictures", ("rows", {**seen, "count": 2_000 // BATCH * BATCH, "batch": BATCH}))
    for count in ORDERS:
        note(f"order of {count}", ("order", {"examples": count, "batch": BATCH, "steps": 200}))
    note("store", ("store", {"folder": str(folder / "store"), "rows": max(BATCH, examples // 50), "width": WIDTH}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="What many examples cost here.")
    parser.add_argument("folder", type=Path, help="where shards go; some 2 GB")
    parser.add_argument("--examples", type=int, default=1_000_000, help="of eight floats each")
    parser.add_argument("--pictures", type=int, default=2_000, help="of 100,000 bytes each")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    before = os.getloadavg()[0]
    found = {
        "measured": measured(args.folder.resolve(), args.examples, args.pictures),
        "sizes": {"small": SMALL, "picture": PICTURE, "batch": BATCH, "width": WIDTH, "shards": SHARDS},
        "load": before,
        "versions": {name: importlib.metadata.version(name) for name in ("finetune", "tensorflow", "numpy")},
        "machine": machine(),
        "date": str(datetime.date.today()),
    }
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found), planned(found), sep="\n")


if __name__ == "__main__":
    main()
