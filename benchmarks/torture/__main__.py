"""Ends runs wherever they touch a file, and looks at what the same command makes of what is left.

    python -m benchmarks.torture FOLDER && python -m benchmarks.torture.table

A run of finetune that has everything at once (phases, dropout, augmentation, accumulation, averages), and one of plain
TensorFlow beside it, are stopped before each call that changes a file. What a kill or a loss of power would leave of
the disk at that moment is kept, and given to the same command later. Others find a disk that takes nothing, or are
killed and signalled at random moments among 1,000 files of others. What comes out is written into
benchmarks/results/torture.json, row by row; FOLDER/SIDE/*/odd-*.txt tell of what did not come out well. Needs Linux
and a C compiler.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.torture.jobs import LONG, SHORT, Job, jobs
from benchmarks.torture.lives import STRIKES
from benchmarks.torture.rows import FULL, LEAVING, Folders, left_at_calls, on_full_disks, struck
from benchmarks.torture.table import RESULTS, ROWS, SIDES, table
from benchmarks.torture.torture import Torture

TIMES = """
how long it takes, where a run starts in 8 seconds, with one worker; two need a little more than half of it:

  killed, power, names   the command again for each of some 650 different disks: 90 minutes; 15 with --every 10
  full, failing          two commands for each of some 750 calls: 4 hours each; 25 minutes with --every 10
  stays                  40 seconds for each tenth of these calls: 50 minutes; 5 with --every 10
  random, term, storm    10 seconds a strike, and half a minute a run: 40 minutes for 200

of plain TensorFlow a third of it. To see in half an hour that it works:

  python -m benchmarks.torture FOLDER --every 100 --kills 10 --terms 5 --storms 5 --out FOLDER/torture.json
"""


class Results:
    """The file of results, which is written after every outcome."""

    def __init__(self, place: Path, goes_on: bool, adds: bool):
        self._place, self._adds = place, adds
        before = json.loads(place.read_text(encoding="utf-8"))["sides"] if goes_on and place.exists() else {}
        versions = {name: importlib.metadata.version(name) for name in ("finetune", "tensorflow")}
        about = {"versions": versions, "machine": machine(), "date": str(datetime.date.today())}
        self.content: dict[str, Any] = {**about, "sides": before}

    def begin(self, side: str, calls: int | None, rows: list[str]) -> None:
        """Forgets what came out of these rows before."""
        found = self.content["sides"].setdefault(side, {"calls": 0, "outcomes": {}, "strikes": {}})
        found["calls"] = found["calls"] if calls is None else calls
        for row in rows if not self._adds else ():
            for kind in ("outcomes", "strikes"):
                found.setdefault(kind, {}).pop(row, None)

    def runs(self, side: str, row: str) -> int:
        """How many outcomes there are of a row."""
        return sum(self.content["sides"][side]["outcomes"].get(row, {}).values())

    def add(self, side: str, row: str, outcome: str, struck: dict[str, Any] | None = None) -> None:
        """One outcome more; and after how many strikes, where there are such."""
        found = self.content["sides"][side]
        found["outcomes"][row] = Counter(found["outcomes"].get(row, {})) + Counter([outcome])
        if struck is not None:
            before = found["strikes"].get(row, struck)
            most = {key: max(before[key], struck[key]) for key in ("most", "seconds")}
            sums = {key: (before[key] if before is not struck else 0) + struck[key] for key in ("strikes", "training")}
            found["strikes"][row] = {**struck, **most, **sums}
        self._place.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        print(f"{time.strftime('%H:%M:%S')} {side} {row} {outcome} {struck or ''}", flush=True)


def folders(job: Job, place: Path, workers: int) -> Folders:
    """As many places for a job as there are workers."""
    return Folders([Torture(job, place / str(number)) for number in range(workers)])


def at_calls(results: Results, side: str, places: Folders, rows: list[str], every: int) -> None:
    """The rows for which each call of a short run is looked at."""
    if faults := [fault for fault in LEAVING if fault in rows]:
        for row, outcome in left_at_calls(places, faults, every):
            results.add(side, row, outcome)
    for row in [row for row in FULL if row in rows]:
        for outcome in on_full_disks(places, row, every):
            results.add(side, row, outcome)


def at_random(results: Results, side: str, places: Folders, strikes: dict[str, int]) -> None:
    """The rows for which a long run is struck at random moments."""
    for row, count in strikes.items():
        for hunt in struck(places, row, count, results.runs(side, row)):
            found = {"strikes": hunt.strikes, "training": hunt.training, "most": hunt.strikes}
            told = {**found, "seconds": round(hunt.seconds, 2), "called": STRIKES[row].strikes}
            results.add(side, row, hunt.outcome, told)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torture",
        description=(__doc__ or "").partition("\n")[0],
        epilog=TIMES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where runs go; some 500 MB")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="look at each Nth call")
    parser.add_argument("--kills", type=int, default=200, help="at random moments, in as many runs as it takes")
    parser.add_argument("--terms", type=int, default=200, help="SIGTERMs, in the same way")
    parser.add_argument("--storms", type=int, default=60, help="storms of signals, in the same way")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at once")
    parser.add_argument("--only", choices=SIDES, help="the other one stays as it was")
    parser.add_argument("--row", choices=ROWS, action="append", help="these rows; the others stay as they were")
    parser.add_argument("--add", action="store_true", help="to what came out of these rows before")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    rows = args.row or list(ROWS)
    place = args.folder.resolve()
    place.mkdir(parents=True, exist_ok=True)
    results = Results(args.out, goes_on=bool(args.only or args.row or args.add), adds=args.add)
    short, long = jobs(place, SHORT), jobs(place, LONG)
    asked = {"random": args.kills, "term": args.terms, "storm": args.storms}
    strikes = {row: count for row, count in asked.items() if row in rows}
    for side in [side for side in SIDES if args.only in (None, side)]:
        results.begin(side, None, rows)
        if {*rows} & {*LEAVING, *FULL}:
            with closing(folders(short[side], place / side / "short", args.workers)) as places:
                print(f"{side}: {places.first.calls} calls", flush=True)
                results.begin(side, places.first.calls, rows)
                at_calls(results, side, places, rows, args.every)
        if strikes:
            with closing(folders(long[side], place / side / "long", args.workers)) as places:
                at_random(results, side, places, strikes)
    print(table(results.content))


if __name__ == "__main__":
    main()
