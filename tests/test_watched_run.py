"""What a run concludes on its way: the best model, an early end, a falling rate, a way back from NaN."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.__main__ import main
from finetune.reading.weights import read_index, read_tensors
from finetune.results import checkpoints, export
from finetune.results.report import Report

SOURCE = Path(__file__).parent / "goldens" / "conv_ref"
LINEAR = "conv1/BiasAdd:0"  # below the first Relu, which makes zeros of NaN
# Rates that are much too high, so that there is something to see within a few steps.
EARLY = ["train.steps=9", "train.learning_rate=5.0", "train.stop_early=3"]
EARLY += ["train.schedule=plateau", "train.plateau.patience=1", "eval.every_steps=1", "checkpoint.every_steps=2"]
BACK = ["train.steps=6", "train.learning_rate=3e38", "train.on_nan=rollback"]
BACK += ["eval.every_steps=1", "checkpoint.every_steps=2"]

# What is killed within this process leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of noise, one of them with a NaN in `damaged.npz`."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    images, labels = random.normal(size=(60, 8, 8, 3)).astype(np.float32), random.integers(0, 3, 60)
    np.savez(folder / "whole.npz", images=images, labels=labels)
    images[17, 2, 2, 1] = np.nan
    np.savez(folder / "damaged.npz", images=images, labels=labels)
    path = folder / "noise.yaml"
    path.write_text(f"""
source: {{path: {SOURCE}, feeds: {{keep_prob: 1.0}}}}
cut: {LINEAR}
head: {{classes: 3}}
data: {{kind: arrays, path: {folder}/whole.npz, preprocess: none, holdout: 0.2}}
train: {{steps: 6, batch_size: 8, optimizer: sgd, learning_rate: 0.1, log_every_steps: 2}}
""")
    return path


class Killed(BaseException):
    """In place of SIGKILL: nothing that the run does catches it."""


@contextmanager
def killed_at(moment: int | None) -> Iterator[list[str]]:
    """Kills what runs within at the so-manyth beginning or end of something that leaves a trace on disk."""
    passed: list[str] = []

    def guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            for when in ("before", "after"):
                passed.append(f"{when} {name}")
                if len(passed) == moment:
                    raise Killed
                if when == "before":
                    result = call(*args, **kwargs)
            return result

        return inner

    with pytest.MonkeyPatch.context() as patch:
        told = [(Report, "scalars"), (Report, "rollback")]
        for owner, name in [(checkpoints, "save"), (export, "write_pair"), (os, "rename"), *told]:
            patch.setattr(owner, name, guarded(name, getattr(owner, name)))
        with suppress(Killed):
            yield passed


def train(recipe: Path, run: Path, *words: str) -> int:
    return main([f"recipe={recipe}", f"run.dir={run}", *words])


def left(run: Path) -> dict[str, Any]:
    """What a run has left, without what the clock says."""
    pairs = {"model": run / "model/model", "best": run / "best/model"}
    last = Path(str(tf.train.latest_checkpoint(str(run / "checkpoints")))).name
    pairs["last"] = run / "checkpoints" / str(last)
    record = json.loads((run / "run.json").read_text())
    found: dict[str, Any] = {key: record[key] for key in ("status", "step", "result", "metrics", "best")}
    found["latest"] = last
    found["cards"] = [json.loads((run / pair / "model.json").read_text())["evaluated"] for pair in ("model", "best")]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["lines"] = [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]
    for name, prefix in pairs.items():
        tensors = read_tensors(str(prefix), sorted(read_index(str(prefix))))
        found |= {f"{name}/{key}": value.tobytes() for key, value in tensors.items()}
    found["junk"] = sorted(f.name for f in run.iterdir() if f.name.startswith("."))
    return found


@pytest.mark.parametrize("words", [EARLY, BACK], ids=["early", "rollback"])
def test_109_killed_at_many_moments_it_ends_as_if_nothing_had_been(
    words: list[str], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with killed_at(None) as moments:
        assert train(recipe, tmp_path / "whole", *words) == 0
    whole = left(tmp_path / "whole")
    assert whole["junk"] == []
    for moment in (14, 10):  # after the first save; in the life after that, where a pair has just changed its name
        with killed_at(moment):
            train(recipe, tmp_path / "killed", *words)
    assert train(recipe, tmp_path / "killed", *words) == 0
    assert len(moments) > 15
    killed = left(tmp_path / "killed")
    assert [key for key in whole if killed[key] != whole[key]] == []
    capsys.readouterr()
    assert train(recipe, tmp_path / "killed", *words) == 0
    assert capsys.readouterr().out.startswith("finished: ")


def test_128_a_nan_in_the_data_is_traced_to_the_example(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [f"data.path={recipe.parent}/damaged.npz", "data.holdout=0", "checkpoint.every_steps=1"]
    assert train(recipe, tmp_path / "run", *words) == 4
    assert capsys.readouterr().err.splitlines() == [
        "error[numerics] step 4: the loss is nan; mend these examples",
        "  begins at: input images has NaN",
        "  examples: 17, the only one of the batch of 8 whose own loss is not finite",
    ]
    assert tf.train.latest_checkpoint(str(tmp_path / "run/checkpoints")) == str(tmp_path / "run/checkpoints/model-3")


def test_what_is_watched_is_refused_where_it_cannot_be(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for words, expected in (
        (["train.stop_early=2", "data.holdout=0"], "train.stop_early: there is no evaluation to go by"),
        (["train.schedule=plateau", "data.holdout=0"], "train.schedule: there is no evaluation to go by"),
        (["eval.metric=acuracy"], "did you mean accuracy"),
        (["eval.metric=accuracy", "eval.goal=min"], "eval.goal: min, but of accuracy more is better"),
        (["train.on_nan=rolback"], "did you mean rollback?"),
        (["train.plateau.factor=1.5"], "train.plateau.factor: 1.5 is not between 0 and 1"),
    ):
        assert train(recipe, tmp_path / "run", *words) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
