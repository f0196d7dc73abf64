"""Accuracy of ours and of Keras `fit`: the same model, weights, examples, budget and rates, on two real sets.

    python -m benchmarks.accuracy --data /usr/share/datasets/fashion-mnist && python -m benchmarks.accuracy.table

The first writes every number into benchmarks/results/accuracy.json, the second the table in docs/benchmarks.md. The
data is Fashion-MNIST, which `apt-get install dataset-fashion-mnist` brings on Debian and Ubuntu into that folder, and
the digits of scikit-learn. What is trained, and how, is in recipes/: Keras is told the same by the same files.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.accuracy import ours, with_keras
from benchmarks.accuracy.sets import SETS, Split, missing
from benchmarks.accuracy.table import RESULTS, table
from benchmarks.machine import machine

METHODS = ("probe", "full", "phases", "lora")


def main() -> None:
    what = "Compare held-out accuracy with that of Keras fit."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=what)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the *-ubyte.gz files of Fashion-MNIST are")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides, for both sides")
    args = parser.parse_args()
    if "garments" in args.sets and (args.data is None or missing(args.data)):
        parser.error("--data needs the four files of the Debian package dataset-fashion-mnist")
    runs: list[dict[str, Any]] = []
    for name in args.sets:
        for method in args.methods:
            for seed in range(args.seeds):
                runs.append({"set": name, "method": method, "seed": seed})
                runs[-1] |= compare(SETS[name](args.data, seed), method, seed, args.words)
                print(*runs[-1].values(), flush=True)
    results = {"runs": runs, "versions": versions(), "machine": machine(), "date": str(datetime.date.today())}
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


def compare(split: Split, method: str, seed: int, words: list[str]) -> dict[str, Any]:
    """What both sides reach on the held-out examples, and what shows that they train the same."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = ours.composed(method, split, seed, Path(folder), words)
        apart = with_keras.features_differ_by(recipe.recipe, split.held_out_images)
        assert apart < 1e-4, f"features differ by {apart}"
        accuracy, *budget = ours.train(recipe)
    theirs, *same = with_keras.fit(recipe.recipe, split)
    assert budget == same, f"{budget} numbers learn in so many steps, in Keras {same}"
    learn, steps = budget
    return {"finetune": accuracy, "keras": theirs, "learn": learn, "steps": steps, "features_differ_by": apart}


def versions() -> dict[str, str]:
    names = ("finetune", "tensorflow", "keras", "numpy", "scikit-learn")
    return {name: importlib.metadata.version(name) for name in names}


if __name__ == "__main__":
    main()
