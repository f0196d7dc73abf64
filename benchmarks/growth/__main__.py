"""How cost grows: with the examples, the size of an image, the epochs, the layers that learn, the nodes of a graph.

    python -m benchmarks.growth FOLDER && python -m benchmarks.growth.table

The first makes pairs and examples in FOLDER (some 100 MB), runs `python -m finetune` on each and writes what it took
into benchmarks/results/growth.json; the second writes the table into docs/benchmarks.md and draws docs/growth.png. Of
several repeats the median counts. With --small it takes a minute, to see that everything runs.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.growth.table import RESULTS, table
from benchmarks.machine import machine
from benchmarks.watched import Watched, of_a_step, trained, watched

RECIPE = """
source: {path: X}
cut: out:0
head: {classes: 2}
data: {kind: arrays, path: X, preprocess: none, holdout: 0.1}
train: {batch_size: 64, learning_rate: 0.01}
eval: {probe: false, every_steps: 1000000000}
"""


@dataclass(frozen=True)
class Axis:
    """What is made larger, and what is measured of it.

    `make` is the source of a call of `benchmarks.growth.sources`, `words` are the overrides, both for one size.
    """

    sizes: Sequence[int]
    small: Sequence[int]
    measured: str
    make: Callable[[int], dict[str, str]]
    words: Callable[[int], list[str]]
    seconds: Callable[[Watched], float]


def ready(run: Watched) -> float:
    """From the start of the process until the first step is logged."""
    return trained(run)[0][1]


def whole(run: Watched) -> float:
    """The whole process."""
    return run.whole


def each_step(run: Watched) -> float:
    """A step, where each is logged."""
    return median(of_a_step(run)[1:])


ROWS, LAYERS, CONVOLUTIONS = {"rows": "rows(place, 1000)"}, 32, {"convolutions": "convolutions(place)"}
OFF = ["cache.mode=off", "stop_gradient=false", "train.epochs=null", "train.log_every_steps=1", "train.steps=8"]
AXES = {
    "examples": Axis(
        (1_000, 10_000, 100_000, 1_000_000),
        (200, 400, 800),
        "an epoch and all before and after it",
        lambda size: {"layers": "layers(place, 4, 16)", f"rows{size}": f"rows(place, {size})"},
        lambda size: ["train.epochs=1", "train.log_every_steps=1000000000", "cache.mode=require", "data.holdout=0"],
        whole,
    ),
    "pixels": Axis(
        (32**2, 64**2, 128**2, 256**2),
        (16**2, 32**2),
        "a step of all layers, 16 images",
        lambda size: {**CONVOLUTIONS, f"pictures{size}": f"pictures(place, 64, {round(size**0.5)})"},
        lambda size: [*OFF, "train.batch_size=16"],
        each_step,
    ),
    "epochs": Axis(
        (10, 100, 1_000, 10_000),
        (2, 4, 8),
        "a whole job on 900 examples",
        lambda size: {"layers": "layers(place, 4, 16)", **ROWS},
        lambda size: [f"train.epochs={size}", "train.log_every_steps=1000000000"],
        whole,
    ),
    "layers that learn": Axis(
        (1, 2, 4, 8, 16, 32),
        (1, 4),
        f"a step, of {LAYERS} layers of 1,024 × 1,024",
        lambda size: {"deep": f"layers(place, {LAYERS}, 1024)", **ROWS},
        lambda size: [*OFF, f"learn=[['layer({_last(size)})/.*',1],['.*',0]]"],
        each_step,
    ),
    "nodes": Axis(
        (1_000, 10_000, 100_000, 500_000),
        (100, 200),
        "until the first step",
        lambda size: {f"chain{size}": f"chain(place, {size})", **ROWS},
        lambda size: ["train.epochs=2", "train.log_every_steps=1"],
        ready,
    ),
}


def _last(count: int) -> str:
    return "|".join(str(LAYERS - 1 - number) for number in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="Measure how cost grows.")
    parser.add_argument("folder", type=Path, help="where pairs, examples and runs go")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", choices=AXES, action="append", help="these axes; the others stay as they were measured"
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    args = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("finetune", "tensorflow")}
    about = {"versions": versions, "machine": machine(), "date": str(datetime.date.today()), "small": args.small}
    before = json.loads(args.out.read_text(encoding="utf-8"))["axes"] if args.only and args.out.exists() else {}
    axes = {name: before.get(name) for name in AXES if name in before}
    for name in args.only or AXES:
        axis = AXES[name]
        points = [_point(args.folder, axis, size, args.repeats) for size in (axis.small if args.small else axis.sizes)]
        axes[name] = {"measured": axis.measured, "points": points}
        written = {**about, "axes": {name: axes[name] for name in AXES if name in axes}}
        args.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(args.out.read_text(encoding="utf-8"))))


def _point(folder: Path, axis: Axis, size: int, repeats: int) -> dict[str, Any]:
    places = {name: folder / name for name in axis.make(size)}
    for name, call in axis.make(size).items():
        if not places[name].exists():  # by a process of its own, for what it leaves in memory is not ours
            given = f"from pathlib import Path; place = Path({str(places[name])!r})"
            code = f"{given}; from benchmarks.growth.sources import *; {call}"
            subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    source, data = places.values()
    recipe = folder / "ours.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    words = [f"source.path={source / 'model'}", f"data.path={data}", f"run.dir={folder / 'run'}", *axis.words(size)]
    runs = []
    for _ in range(repeats):
        for left in ("run", "cache"):
            shutil.rmtree(folder / left, ignore_errors=True)
        command = [sys.executable, "-m", "finetune", f"recipe={recipe}", f"cache.dir={folder / 'cache'}", *words]
        run = watched(command, {"XDG_CACHE_HOME": str(folder.resolve())})
        runs.append({"seconds": axis.seconds(run), "memory": run.memory})
        print(f"{size:,}", runs[-1], flush=True)
    shutil.rmtree(folder / "run")
    return {"size": size, "runs": runs}


if __name__ == "__main__":
    main()
