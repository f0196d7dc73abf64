"""What is refused before TensorFlow is imported because the source does not take it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.examples.record_index import Keeping
from finetune.plan import beside, keeping, make_plan
from finetune.recipe import Cache, Data, Head, Recipe, Source, Train
from tests.graphs import GOLDENS


def recipe(golden: str, **train: Any) -> Recipe:
    about = json.loads((GOLDENS / golden / "golden.json").read_text())
    return Recipe(
        name="r",
        source=Source(path=str(GOLDENS / golden), inputs=about["inputs"], feeds=about["eval_feeds"]),
        cut=about["cut"],
        head=Head(classes=2),
        data=Data(kind="synthetic", preprocess="none"),
        train=Train(steps=1, **train),
    )


@pytest.mark.parametrize(
    ("golden", "train", "message"),
    [
        (
            "embedding",
            {"mixup": 0.2},
            "train.mixup, train.cutmix: tokens:0 takes int32, which cannot be mixed",
        ),
        ("embedding", {"cutmix": 1.0}, "train.cutmix: it pastes rectangles of images, .*; use train.mixup"),
    ],
)
def test_inputs_that_cannot_be_mixed_are_named(golden: str, train: dict[str, float], message: str):
    make_plan(recipe(golden))
    with pytest.raises(UserError, match=message):
        make_plan(recipe(golden, **train))


def test_equal_examples_that_are_all_held_out_are_refused(tmp_path: Path):
    np.savez(tmp_path / "same.npz", x=np.full((40, 28, 28, 1), 3.0, np.float32), labels=np.arange(40) % 2)
    asked = recipe("conv_ref")
    inputs = {"x": next(iter(asked.source.inputs.values()))}
    data = Data(kind="arrays", path=str(tmp_path / "same.npz"), preprocess="none", holdout=0.999)
    asked = replace(asked, source=replace(asked.source, inputs=inputs), data=data)
    with pytest.raises(UserError, match=r"data\.holdout: all 40 examples are held out, and none is left"):
        make_plan(asked)


def test_what_is_wrong_with_rules_and_examples_is_told_with_it(tmp_path: Path):
    asked = recipe("conv_ref")
    asked = replace(asked, learn=[["nowhere/.*", 1.0]], data=Data(path=str(tmp_path / "none"), eval_crop=2.0))
    with pytest.raises(UserError) as refused:
        make_plan(asked)
    first, second = str(refused.value).splitlines()
    assert first.startswith("error[recipe] learn: the rule 'nowhere/.*' matches none")
    assert second.startswith(f"  data.path: there is no folder '{tmp_path / 'none'}'")
    assert [fault.where for fault in beside([UserError("recipe", "data.eval_crop", "2.0")], asked)] == ["learn"]
    asked.source.path = str(tmp_path / "none")
    assert [fault.code for fault in beside([], asked)] == ["source", "data"]


def test_images_can_be_mixed():
    make_plan(recipe("conv_ref", mixup=0.2, cutmix=1.0))


def test_what_is_found_in_record_files_is_kept_in_the_cache_if_there_is_one(tmp_path: Path):
    asked = recipe("conv_ref")
    asked.cache = Cache(dir=str(tmp_path), max_gb=2.0)
    assert keeping(asked, (3, 8), writes=False) == Keeping(tmp_path / "records", 2e9, 3, 8, False)
    asked.cache.mode = "off"
    assert keeping(asked) is None
