"""One run of ours, through the door: a recipe file and overrides in, a run folder out."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np

from benchmarks.accuracy.sets import Split
from finetune.compose import Composed, compose
from finetune.run import run

RECIPES = Path(__file__).parent / "recipes"


def composed(method: str, split: Split, seed: int, folder: Path, words: list[str]) -> Composed:
    """The recipe of a method for some examples, which it finds in `folder`."""
    held_out = {"images": split.held_out_images, "labels": split.held_out_labels}
    np.savez(folder / "train.npz", images=split.images, labels=split.labels)
    np.savez(folder / "held_out.npz", **held_out)
    data = [f"data.path={folder / 'train.npz'}", f"data.eval_path={folder / 'held_out.npz'}"]
    return compose([f"recipe={RECIPES / method}.yaml", *data, f"run.seed={seed}", f"run.dir={folder / 'run'}", *words])


def train(recipe: Composed) -> tuple[float, int, int]:
    """Held-out accuracy after the last step, how many numbers learn in the end, and the number of steps."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert run(recipe.recipe, recipe.yaml, recipe.overrides) == 0
    record = json.loads((Path(str(recipe.recipe.run.dir)) / "run.json").read_text(encoding="utf-8"))
    assert record["proof"]["features"] == "identical", "the features are not the source's own"
    learning = [math.prod(v["shape"]) for v in record["variables"].values() if v["rate"]]
    return record["metrics"]["accuracy"], sum(learning), record["step"]
