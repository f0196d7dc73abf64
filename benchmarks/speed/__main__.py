"""How fast ours is beside others: the same weights, images, batch size and threads, side by side in one run.

    python -m benchmarks.speed FOLDER && python -m benchmarks.speed.table

The first makes its work in FOLDER (some 4 GB), takes every time in turns (all of them once, then again) and writes
them into benchmarks/results/speed.json; the second writes the medians and ratios into docs/benchmarks.md. It wants a
machine with nothing else to do. With --small and --repeats 1 it takes two minutes, to see that everything runs. PyTorch
takes part if it is installed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import machine
from benchmarks.speed import ours
from benchmarks.speed.contenders import BATCH
from benchmarks.speed.once import once
from benchmarks.speed.table import RESULTS, table
from benchmarks.speed.workload import SMALL, Net
from benchmarks.watched import at, trained

MANY = 400  # epochs of ours, where one takes milliseconds
JOB = 20  # epochs of the whole job


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="Compare speed with others.")
    parser.add_argument("folder", type=Path, help="where the pair, the images and the runs go")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides, for ours")
    args = parser.parse_intermixed_args()
    net = SMALL if args.small else Net()
    # By a process of its own, for what it leaves in memory is not ours.
    subprocess.run([sys.executable, "-c", _making(args.folder, net, args.images)], check=True)
    peers = ["tutorial", "keras", "by_hand"] + ["pytorch"] * bool(importlib.util.find_spec("torch"))
    named = ("finetune", "tensorflow", "keras", "torch")
    versions = {name: importlib.metadata.version(name) for name in named if importlib.util.find_spec(name)}
    about = {"images": args.images, "batch": BATCH, "small": args.small, "operations": net.operations()}
    dated = {"versions": versions, "machine": machine(), "date": str(datetime.date.today())}
    times: dict[str, list[Any]] = {}
    for repeat in range(args.repeats):
        times.setdefault("limits", []).append(_limits(args.folder))
        for what in ("frozen", "prefix", "full"):
            for name in peers if what != "prefix" else ["keras"]:
                found = peer(args.folder, name, what, args.small, epochs=1 if what == "full" and not args.small else 2)
                times.setdefault(f"{name} {what}", []).append(found)
                print(repeat, name, what, found["epochs"], flush=True)
            times.setdefault(f"finetune {what}", []).append(MEASURED[what](args.folder, args.images, args.words))
            print(repeat, "finetune", what, times[f"finetune {what}"][-1], flush=True)
        times.setdefault("once", []).append(once(args.folder, args.words))
        print(repeat, "once", times["once"][-1], flush=True)
        if not repeat:  # one after the other, for it takes long and is far from the others
            times["hub frozen"] = [peer(args.folder, "hub", "frozen", args.small, epochs=JOB)]
        measured = {**about, **dated, "words": args.words, "times": times}
        args.out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(args.out.read_text(encoding="utf-8"))))


def _making(folder: Path, net: Net, images: int) -> str:
    words = f"Net({net.convolutions!r}, {net.dense}, {net.side}), {images}"
    return f"from pathlib import Path; from benchmarks.speed.workload import *; make(Path({str(folder)!r}), {words})"


def _limits(folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.limits", str(folder)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def peer(folder: Path, name: str, what: str, small: bool, epochs: int) -> dict[str, Any]:
    """The times of one of the others, in a process of its own."""
    words = [name, str(folder), "--what", what, "--epochs", str(epochs), *["--small"] * small]
    command = [sys.executable, "-m", "benchmarks.speed.contenders", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} {what}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def frozen(folder: Path, images: int, words: Sequence[str]) -> dict[str, Any]:
    """The first epoch (all that is kept is computed), the later ones, and a whole job."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    job = _run(folder, "frozen", [f"train.epochs={JOB}", *words])
    filled = at(job["lines"], "rows to train on are computed") - at(job["lines"], r"cache: \S+ is computed")
    per_epoch = -(-images // BATCH)
    every = per_epoch * MANY // 4
    many = _run(folder, "frozen", [f"train.epochs={MANY}", f"train.log_every_steps={every}", *words])
    (first, began), *_, (last, ended) = trained(many["lines"])
    later = (ended - began) / (last - first) * per_epoch
    found = {"first": filled + later, "later": later, "whole": job["whole"], "memory": job["memory"]}
    return {**found, "ready": at(job["lines"], "cache: ")}


def prefix(folder: Path, images: int, words: Sequence[str]) -> dict[str, Any]:
    """The first epoch and the later ones where all from conv5 on learns."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    per_epoch = -(-images // BATCH)
    every = [f"train.log_every_steps={per_epoch}", f"train.epochs={3 * images / (per_epoch * BATCH):g}"]
    done = _run(folder, "prefix", [*every, *words])
    filled = at(done["lines"], "rows to train on are computed")
    ends = [when for _, when in trained(done["lines"])]
    later = [after - before for before, after in pairwise(ends)]
    opened = at(done["lines"], r"cache: \S+ is computed")
    return {"first": filled - opened + median(later), "later": median(later), "memory": done["memory"]}


def full(folder: Path, images: int, words: Sequence[str]) -> dict[str, Any]:
    """Each step where all learns."""
    steps = -(-images // BATCH)
    only = ["train.epochs=null", f"train.steps={steps}", "train.log_every_steps=1", "cache.mode=off"]
    done = _run(folder, "full", [*only, *words])
    ends = [when for _, when in trained(done["lines"])]
    taken = [after - before for before, after in pairwise(ends)]
    return {"steps": taken, "memory": done["memory"]}


MEASURED = {"frozen": frozen, "prefix": prefix, "full": full}


def _run(folder: Path, what: str, words: Sequence[str]) -> dict[str, Any]:
    place = folder / "run"
    shutil.rmtree(place, ignore_errors=True)
    os.sync()  # or what ours writes waits for what was removed
    try:
        return ours.run(folder, place, what, words)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
