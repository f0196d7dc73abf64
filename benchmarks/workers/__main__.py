"""How a step scales with workers on one machine, and how far the result is from that of one.

    python -m benchmarks.workers FOLDER && python -m benchmarks.workers.table

On a machine of two cores that cannot show that more workers are faster. What it shows is what they cost: each count of
workers computes one batch together, and then as many processes that know nothing of each other compute their shares of
it at the same time. The cores are as busy, so the difference is what the workers say to each other. Takes some minutes.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.ports import free_ports
from benchmarks.speed.workload import NETS, make
from benchmarks.workers.table import RESULTS, table
from finetune.reading.weights import read_index, read_tensors

COUNTS = (1, 2, 4)
EXAMPLES, STEPS, EVERY = 640, 200, 20
RECIPE = """
source: {{path: {folder}/model/model, feeds: {{keep_prob: 1.0}}}}
cut: features:0
stop_gradient: false
head: {{classes: 2}}
data: {{kind: arrays, path: {folder}/arrays, preprocess: none, holdout: 0.0}}
train: {{steps: {steps}, batch_size: 32, optimizer: sgd, learning_rate: 0.0001, log_every_steps: {every}}}
cache: {{mode: "off"}}
engine: {{mode: default, threads: 1}}
checkpoint: {{every_minutes: null}}
"""


def finished(commands: list[list[str]]) -> None:
    """Runs all of them at once.

    Raises:
      RuntimeError: one failed, with what it said.
    """
    started = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    said = [one.communicate()[0] for one in started]
    for one, words in zip(started, said, strict=True):
        if one.returncode:
            raise RuntimeError(words)


def step_of(run: Path, batch: int) -> float:
    """The median seconds of a step, the first lines of the log not counted."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return median(batch / line["examples_per_second"] for line in lines[2:] if line["phase"] == "train")


def variables(run: Path) -> dict[str, np.ndarray]:
    """What the pair of a run holds in floats."""
    prefix = str(run / "model" / "model")
    held = read_tensors(prefix, sorted(read_index(prefix)))
    return {name: value for name, value in held.items() if value.dtype.kind == "f"}


def measured(folder: Path) -> list[dict[str, Any]]:
    """Of each count of workers a step together, one of as many that are alone, and how far the result is from one's."""
    net = NETS["demo"]
    make(folder, net, EXAMPLES)
    recipe = folder / "workers.yaml"
    recipe.write_text(RECIPE.format(folder=folder, steps=STEPS, every=EVERY), encoding="utf-8")
    ours = [sys.executable, "-m", "finetune", f"recipe={recipe}"]
    shutil.rmtree(folder / "runs", ignore_errors=True)
    rows = []
    for count in COUNTS:
        run = folder / "runs" / f"together-{count}"
        addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(count))
        who = [[f"run.workers=[{addresses}]", f"run.worker={n}"] * (count > 1) for n in range(count)]
        finished([[*ours, f"run.dir={run}", *words] for words in who])
        alone = [folder / "runs" / f"alone-{count}-{n}" for n in range(count)]
        # As those that are together, they make a step a call.
        share = [f"train.batch_size={net.batch // count}", "distribute=none"]
        finished([[*ours, f"run.dir={place}", *share] for place in alone])
        one = variables(folder / "runs" / f"together-{COUNTS[0]}")
        far = max(float(np.abs(one[name] - value).max()) for name, value in variables(run).items())
        size = max(float(np.abs(value).max()) for value in one.values())
        rows.append(
            {
                "workers": count,
                "together": step_of(run, net.batch),
                "alone": median(step_of(place, net.batch // count) for place in alone),
                "difference": far / size,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description="How workers scale here.")
    parser.add_argument("folder", type=Path, help="where runs go; some 50 MB")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = measured(args.folder.resolve())
    versions = {name: importlib.metadata.version(name) for name in ("finetune", "tensorflow")}
    found = {"rows": rows, "versions": versions, "machine": machine(), "date": str(datetime.date.today())}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
