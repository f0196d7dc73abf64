"""Phases with whatever else leaves a state: killed at every save, a run still ends with the same bits."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.compose import Composed, compose
from finetune.interruption import Interrupted, Interruption
from finetune.learning import strides
from finetune.reading.weights import read_index, read_tensors
from finetune.results import checkpoints
from finetune.run import run
from finetune.running import session

# A run that dies leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

GOLDEN = Path(__file__).resolve().parents[1] / "goldens" / "conv_ref"
WORDS = ["recipe=vgg_2class", f"source.path={GOLDEN}", "cut=fc7:0", "data.kind=synthetic", "head.classes=3"]
WORDS += ["source.feeds={keep_prob:{train:0.5,eval:1.0}}", "train.steps=7", "train.batch_size=4", "eval.probe=false"]
WORDS += ["eval.every_steps=1", "checkpoint.every_steps=1", "checkpoint.keep=20"]

HEAD = "{name: head, until: {step: 2}, stop_gradient: true}"
TOP = "{name: top, until: {plateau: 2}, learn: [['fc[67]/.*', 1], ['.*', 0]], learning_rate: 1e-4}"
ALL = "{name: all, optimizer: sgd, optimizer_args: {momentum: 0.9}, learning_rate: 1e-2}"
TOGETHER = {
    "averages": [f"phases=[{HEAD},{TOP},{ALL}]", "stop_gradient=false", "train.ema=0.5", "train.accumulate=2"],
    "mixing": [f"phases=[{HEAD},{TOP},{ALL}]", "stop_gradient=false", "train.mixup=0.4", "train.l2_sp=0.1"],
    "lora": [
        "phases=[{name: slow, until: {step: 3}, learning_rate: 1e-4}, {name: fast, learning_rate: 1e-2}]",
        "stop_gradient=false",
        "lora={match: ['fc[67]/weights'], rank: 2}",
        "train.ema=0.9",
    ],
    "distillation": [
        f"phases=[{HEAD},{ALL}]",
        "stop_gradient=false",
        "distill={tensor: 'fc8:0'}",
        "train.accumulate=2",
        "train.ema=0.5",
    ],
    "plateaus": [
        f"phases=[{HEAD},{{name: all, schedule: plateau}}]",
        "stop_gradient=false",
        "train.plateau.patience=1",
        "train.stop_early=4",
        "train.learning_rate=0.5",
        "train.precision=mixed_float16",
    ],
    "rollback": [
        f"phases=[{HEAD},{{name: wild, learning_rate: 1e37}}]",
        "train.on_nan=rollback",
        "checkpoint.every_steps=3",
    ],
}


def start(composed: Composed, folder: Path, interruption: Interruption | None = None) -> int:
    asked = replace(composed.recipe, run=replace(composed.recipe.run, dir=str(folder)))
    return run(asked, composed.yaml, [], interruption=interruption)


def everything(folder: Path) -> dict[str, dict[str, Any]]:
    """What each checkpoint and pair of a run holds, by file and name."""
    found = {}
    for index in sorted(folder.rglob("*.index")):
        prefix = str(index.with_suffix(""))
        tensors = read_tensors(prefix, sorted(read_index(prefix)))
        found[str(index.relative_to(folder))] = {name: bits(value) for name, value in tensors.items()}
    return found


def bits(value: np.ndarray) -> Any:
    return value.tolist() if value.dtype == object else value.tobytes()


def logged(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]


@pytest.mark.parametrize("together", TOGETHER)
def test_102_a_run_that_is_killed_at_every_save_ends_bit_identical(together, tmp_path, monkeypatch):
    composed = compose([*WORDS, *TOGETHER[together]])
    whole, folder, save = tmp_path / "whole", tmp_path / "killed", checkpoints.save
    assert start(composed, whole) == 0
    status, turns = None, 0
    while status is None:
        saved = 0

        def once(*words):
            nonlocal saved
            saved += 1
            if saved > 1:
                raise KeyboardInterrupt
            save(*words)

        monkeypatch.setattr(checkpoints, "save", once)
        with contextlib.suppress(KeyboardInterrupt):
            status = start(composed, folder)
        turns += 1
        assert turns < 20
    assert turns > 2
    ours, undisturbed = everything(folder), everything(whole)
    assert ours.keys() == undisturbed.keys()
    assert [
        (f, n) for f in ours for n in {**ours[f], **undisturbed[f]} if ours[f].get(n) != undisturbed[f].get(n)
    ] == []
    assert logged(folder) == logged(whole)
    records = [json.loads((f / "run.json").read_text()) for f in (folder, whole)]
    for name in ("phases", "step", "result", "metrics", "best"):
        assert records[0][name] == records[1][name]


def test_each_of_them_does_what_it_is_there_for(tmp_path):
    """Else the test above compares nothing."""
    said = {}
    for name in ("averages", "lora", "plateaus", "rollback"):
        composed = compose([*WORDS, *TOGETHER[name]])
        start(composed, tmp_path / name)
        said[name] = (tmp_path / name / "train.log").read_text()
    assert "take moving averages of" in said["averages"]
    assert "phase: fast (2 of 2, after step 3)" in said["lora"]
    assert "lora: 2 matrices" in said["lora"]
    assert "plateau: from here on at" in said["plateaus"]
    assert "rollback 1: at step" in said["rollback"]


SHORT = ["stop_gradient=false", "cache.mode=off", "train.steps=23", "eval.every_steps=9", "checkpoint.every_steps=4"]
SHORT += ["train.log_every_steps=1"]
IN_ONE_CALL = {
    "dropout, averages, a rate that falls": ["train.ema=0.9", "train.schedule=cosine", "train.clip_norm=0.1"],
    "drawn to the source": ["train.l2_sp=0.1", "data.balance=sampling"],
    "phases": [f"phases=[{HEAD},{ALL}]"],
}
ONE_BY_ONE = {
    "portions": ["train.accumulate=2"],
    "a loss scale": ["train.precision=mixed_float16"],
    "mixed": ["train.mixup=0.4"],
    "old logits": ["distill={tensor: 'fc8:0'}"],
}


@pytest.mark.parametrize("what", [*IN_ONE_CALL, *ONE_BY_ONE])
def test_short_steps_of_all_layers_are_made_in_one_call_with_the_same_bits(what, tmp_path, monkeypatch):
    taken: list[int] = []

    def watched(*given):
        take = strides.make_stride(*given)
        return lambda before, last, *batch: taken.append(last - before) or take(before, last, *batch)

    monkeypatch.setattr(session, "make_stride", watched)
    composed = compose([*WORDS, *SHORT, *IN_ONE_CALL.get(what, ()), *ONE_BY_ONE.get(what, ())])
    assert start(composed, tmp_path / "many") == 0
    assert max(taken, default=1) == (4 if what in IN_ONE_CALL else 1)  # up to the next save
    monkeypatch.setattr(strides, "MOST_STEPS", 1)
    if what in IN_ONE_CALL:
        assert start(composed, tmp_path / "single") == 0
        assert everything(tmp_path / "many") == everything(tmp_path / "single")
        assert logged(tmp_path / "many") == logged(tmp_path / "single")


class Asked(Interruption):
    """Somebody asks the run to end at one of the places at which it can."""

    def __init__(self, place: int):
        super().__init__()
        self.left = place

    def check(self) -> None:
        self.left -= 1
        if not self.left:
            self.by = "SIGTERM"
        super().check()


@pytest.mark.parametrize("together", ["averages", "plateaus"])
def test_102_a_run_that_is_asked_to_end_wherever_it_can_be_ends_bit_identical(together, tmp_path):
    composed = compose([*WORDS, *TOGETHER[together], "checkpoint.every_steps=3"])
    assert start(composed, tmp_path / "whole") == 0
    folder, status, turns = tmp_path / "asked", None, 0
    while status is None:
        # The first of them is asked where it begins, and each looks at more batches than the one before.
        with contextlib.suppress(Interrupted):
            status = start(composed, folder, Asked(1 + turns))
        turns += 1
        assert turns < 40
    assert turns > 4
    ours, undisturbed = everything(folder), everything(tmp_path / "whole")
    assert set(undisturbed) <= set(ours)
    # A checkpoint that owes an evaluation says so.
    assert {name: ours[name] for name in ("model/model.index", "best/model.index")} == {
        name: undisturbed[name] for name in ("model/model.index", "best/model.index")
    }
    assert logged(folder) == logged(tmp_path / "whole")
