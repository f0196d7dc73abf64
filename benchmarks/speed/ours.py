"""Ours, through the door: what a run says is taken down with the time, from outside."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.contenders import RATE
from benchmarks.speed.workload import Net
from benchmarks.watched import Watched

RECIPE = """
source: {{path: {folder}/model/model, feeds: {{keep_prob: 1.0}}}}
cut: features:0
head: {{classes: 2}}
data: {{{data}, holdout: 0.0}}
train: {{batch_size: {batch}, optimizer: sgd, learning_rate: {rate}, epochs: 100000}}
cache: {{dir: {folder}/cache}}
"""
DATA = {
    "images": "kind: images, path: {folder}/images, preprocess: vgg",
    "arrays": "kind: arrays, path: {folder}/arrays, preprocess: none",
}
WHAT: dict[str, Sequence[str]] = {
    "frozen": (),
    "prefix": ("stop_gradient=false", "learn=[['(conv5|fc).*', 1], ['.*', 0]]"),
    "full": ("stop_gradient=false", "cache.mode=off"),
}
KNOWN = "known"  # where in the folder the engines are remembered that were measured


def ours(
    folder: Path, net: Net, what: str, words: Sequence[str] = (), decoded: bool = False, name: str = ""
) -> Watched:
    """A run that has not begun, of more epochs than anybody waits for unless the words say how many."""
    folder = folder.resolve()
    kind = "images" if net.jpeg and not decoded else "arrays"
    name = name or f"{what}-{kind}"
    given = {"folder": folder, "batch": net.batch, "rate": RATE}
    recipe = folder / f"{name}.yaml"
    recipe.write_text(RECIPE.format(**given, data=DATA[kind].format(**given)), encoding="utf-8")
    place = folder / "runs" / name
    shutil.rmtree(place, ignore_errors=True)
    os.sync()  # or what ours writes waits for what was removed
    command = [sys.executable, "-m", "finetune", f"recipe={recipe}", f"run.dir={place}", *WHAT[what], *words]
    return Watched(command, {"XDG_CACHE_HOME": str(folder / KNOWN)})
