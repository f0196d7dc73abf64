"""Schedules that unfreeze a backbone from the cut downwards: what a recipe makes of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from finetune.compose import compose
from finetune.errors import UserError
from finetune.inspecting.inspect import sliced
from finetune.inspecting.unfreezing import as_yaml, unfreezing
from finetune.packaged import asset
from finetune.plan import make_plan
from finetune.recipe_files import parse
from finetune.showing import show

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
DEMO = asset("demo/small_vgg")


def test_layers_thaw_from_the_cut_downwards_at_rates_that_fall():
    stages = unfreezing(sliced(DEMO, "fc7:0").diagram, 8, 800)
    assert [stage.name for stage in stages[:3]] == ["head", "from fc7", "from fc6"]
    assert [stage.patterns for stage in stages[:3]] == [(), ("fc7/.*",), ("fc6/.*", "fc7/.*")]
    assert (stages[-1].name, stages[-1].patterns, stages[-1].last) == ("all", None, None)
    assert [stage.last for stage in stages[:-1]] == [100, 200, 300, 400, 500, 600, 700]
    rates = [stage.learning_rate for stage in stages]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == pytest.approx((1e-3, 1e-5))


def test_a_scope_is_named_as_a_whole_where_nothing_in_it_is_frozen():
    stages = unfreezing(sliced(str(GOLDENS / "bn_cond")).diagram, 3, 90)
    assert stages[1].patterns == ("block2/.*",)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_phases_that_the_layers_do_not_give_are_refused(count):
    with pytest.raises(UserError, match=r"--phases: .* phases, and the cut has 7 layers .* a number from 2 to 8"):
        unfreezing(sliced(DEMO, "fc7:0").diagram, count, 90)


@pytest.mark.parametrize(("name", "count"), [("bn_cond", 3), ("bn_moments", 3), ("conv_ref", 4), ("rnn_sequence", 2)])
def test_a_recipe_with_phases_is_one_that_runs(name, count, tmp_path, capsys):
    """Each phase changes more variables than the one before, at last all that training changes."""
    path = tmp_path / "mine.yaml"
    assert show([str(GOLDENS / name), "--recipe", str(path), "--phases", str(count)]) == 0
    words = ["data.kind=synthetic", "head.classes=3", "train.batch_size=2"]
    plan = make_plan(compose([f"recipe={path}", *words]).recipe)
    moving = [phase.variants.moving() for phase in plan.phases]
    assert moving[0] == set()
    assert all(before < after for before, after in pairwise(moving))
    learned = {v.name for v in plan.source.variables if v.trainable}
    assert moving[-1] >= learned


def test_a_cut_may_be_any_tensor_and_what_is_printed_is_yaml(capsys):
    assert show([DEMO, "--phases", "2", "--cut", "pool2"]) == 0
    phases = parse(capsys.readouterr().out, "here")["phases"]
    assert [phase["name"] for phase in phases] == ["head", "all"]
    assert as_yaml(unfreezing(sliced(DEMO, "pool2:0").diagram, 2, 200)).startswith("phases:")


def test_a_recipe_is_cut_where_it_is_said(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    assert show([DEMO, "--recipe", str(path), "--cut", "pool5"]) == 0
    assert compose([f"recipe={path}", "data.path=x"]).recipe.cut == "pool5:0"


def test_phases_are_no_json():
    with pytest.raises(UserError, match="--phases: are YAML"):
        show([DEMO, "--phases", "2", "--json"])
