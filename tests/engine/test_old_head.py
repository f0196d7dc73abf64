from __future__ import annotations

import numpy as np
import pytest

from finetune.engine.compile import as_function, features_program
from finetune.engine.old_head import make_old_head
from finetune.packaged import asset
from finetune.plan import make_plan
from finetune.recipe import Data, Eval, Head, Recipe, Train
from finetune.recipe import Source as Asked
from finetune.surgery.backbone import make_backbone, mode_feeds
from finetune.surgery.source import Source, read_source, read_values
from tests.graphs import refusal

PAIR = asset("demo/small_vgg")
FEEDS = {"keep_prob": 1.0}


@pytest.fixture(scope="module")
def old() -> Source:
    return read_source(PAIR, "fc8", {}, FEEDS)


@pytest.fixture(scope="module")
def arguments() -> dict[str, np.ndarray]:
    values = read_values(read_source(PAIR, "fc7:0", {}, FEEDS))
    images = np.random.default_rng(0).random((4, 28, 28, 1)).astype(np.float32)
    return {"input/images": images, **{f"variable/{n}": v for n, v in values.items()}, "seed": (0, 0)}


def test_it_says_what_the_whole_source_says(old: Source, arguments):
    whole = make_backbone(old.whole, [old.cut], old.inputs, mode_feeds(old.feeds, "eval"))
    everything = {f"variable/{n}": v for n, v in read_values(old).items()}
    expected = as_function(features_program(whole))({**arguments, **everything})["features"].numpy()
    found = make_old_head(old, 0, False, arguments)(arguments).numpy()
    assert found.shape[-1] == 8
    assert np.array_equal(found, expected)


def test_it_follows_what_is_learnt_below_the_cut_and_keeps_what_is_above(old: Source, arguments):
    outputs = make_old_head(old, 0, False, arguments)
    moved = {**arguments, "variable/fc7/biases": arguments["variable/fc7/biases"] + 1}
    assert not np.array_equal(outputs(moved), outputs(arguments))
    values = read_values(old)
    assert np.allclose(
        outputs({**arguments, "variable/fc7/biases": np.full(256, -1e6, np.float32)}), values["fc8/biases"]
    )


def asking(at: str) -> Recipe:
    return Recipe(
        name="old_head",
        source=Asked(path=str(PAIR), feeds=FEEDS),
        cut="fc7:0",
        head=Head(classes=2),
        data=Data(kind="synthetic", preprocess="none"),
        train=Train(steps=1),
        eval=Eval(old_head=at),
    )


def test_the_plan_has_the_source_cut_at_its_own_head():
    plan = make_plan(asking("fc8"))
    assert plan.old_head is not None
    assert plan.old_head.cut == "fc8:0"
    assert {v.name for v in plan.old_head.variables} - {v.name for v in plan.source.variables} == {
        "fc8/weights",
        "fc8/biases",
    }


def test_a_tensor_that_is_not_there_or_not_behind_the_cut_is_refused():
    error = refusal(make_plan, asking("fc_8:0"))
    assert error.where == "eval.old_head"
    assert "fc8:0" in error.todo
    error = refusal(make_plan, asking("fc6"))
    assert (error.where, error.what) == ("eval.old_head", "'fc6' does not depend on the cut 'fc7:0'")
