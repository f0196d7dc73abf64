"""Ours, through the door: what a run says is taken down with the time, from outside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.contenders import BATCH, RATE
from benchmarks.watched import watched

RECIPE = f"""
source: {{path: "${{oc.env:SPEED}}/pair/vgg", feeds: {{keep_prob: 1.0}}}}
cut: fc7:0
head: {{classes: 2}}
data: {{kind: images, path: "${{oc.env:SPEED}}/images", preprocess: vgg, holdout: 0.0}}
train: {{batch_size: {BATCH}, optimizer: sgd, learning_rate: {RATE}, epochs: 2}}
cache: {{dir: "${{oc.env:SPEED}}/cache"}}
"""
WHAT: dict[str, Sequence[str]] = {
    "frozen": (),
    "prefix": ("stop_gradient=false", "learn=[['(conv5|fc).*', 1], ['.*', 0]]"),
    "full": ("stop_gradient=false",),
}


def run(folder: Path, run_folder: Path, what: str, words: Sequence[str]) -> dict[str, Any]:
    """Trains; see `watched`."""
    recipe = folder / "ours.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "finetune", f"recipe={recipe}", f"run.dir={run_folder}", *WHAT[what], *words]
    return watched(command, {"SPEED": str(folder.resolve())})
