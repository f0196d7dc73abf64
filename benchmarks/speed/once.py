"""What a run of ours does once, or now and then: start, refuse, save beside the training, go on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.growth.sources import layers, rows
from benchmarks.speed.ours import ours
from benchmarks.speed.workload import Net
from benchmarks.watched import in_turns, of_a_step, trained, watched

STEPS = 8  # of each of two runs, one of which is saved after every one
RESUMED = (100, 100_000)  # the steps at which runs go on
SMALL_RUN = """
source: {{path: {place}/layers/model}}
cut: out:0
head: {{classes: 2}}
data: {{kind: arrays, path: {place}/rows, preprocess: none, holdout: 0.1}}
train: {{batch_size: 64, learning_rate: 0.01, log_every_steps: 1000000}}
eval: {{probe: false, every_steps: 1000000}}
cache: {{dir: {place}/cache}}
"""


def once(folder: Path, vgg: Path, net: Net) -> dict[str, Any]:
    """The seconds of each; `saving` is a step of VGG-16 from conv5 on after which it is saved, `quiet` one without."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, capture_output=True)
    imported = time.monotonic() - began
    return {
        "import": imported,
        "ready": _first_step(folder),
        "refused": _refused(folder),
        **_saving(vgg, net),
        "resumed": {str(step): _resumed(folder, step) for step in RESUMED},
    }


def _command(place: Path, *words: str) -> list[str]:
    shutil.rmtree(place, ignore_errors=True)
    return [sys.executable, "-m", "finetune", f"run.dir={place}", *words]


def _first_step(folder: Path) -> float:
    """The recipe that the README begins with, with nothing kept from before."""
    words = "recipe=vgg_2class", "train.log_every_steps=1", "train.steps=20", "train.epochs=null"
    run = watched(_command(folder / "run", *words), {"XDG_CACHE_HOME": str(folder / "nothing")})
    shutil.rmtree(folder / "nothing", ignore_errors=True)
    return trained(run)[0][1]


def _refused(folder: Path) -> float:
    """A key that there is not."""
    began = time.monotonic()
    done = subprocess.run(
        _command(folder / "run", "recipe=vgg_2class", "train.step=5"), check=False, capture_output=True
    )
    assert done.returncode == 2, done.stderr
    return time.monotonic() - began


def _saving(vgg: Path, net: Net) -> dict[str, float]:
    given = {"quiet": [], "saving": ["checkpoint.every_steps=1", "checkpoint.keep=1"]}
    each = {
        name: ours(vgg, net, "prefix", ["train.log_every_steps=1", *words], name=name) for name, words in given.items()
    }
    in_turns(list(each.values()), r"train \| step", STEPS)
    return {name: median(of_a_step(one)) for name, one in each.items()}


def _resumed(folder: Path, step: int) -> float:
    """From the start of the process to the first step that it makes, of a run that has made so many."""
    place = folder / "small"
    if not place.exists():
        layers(place / "layers", 4, 16)
        rows(place / "rows", 1000)
        (place / "recipe.yaml").write_text(SMALL_RUN.format(place=place.resolve()), encoding="utf-8")
    words = f"recipe={place / 'recipe.yaml'}", "train.epochs=null"
    watched(_command(folder / "run", *words, f"train.steps={step}"), {})
    command = [sys.executable, "-m", "finetune", f"run.dir={folder / 'run'}", *words]
    run = watched([*command, f"train.steps={step + 1}", "train.log_every_steps=1"], {})
    return trained(run)[0][1]
