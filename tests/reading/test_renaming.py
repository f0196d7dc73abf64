"""Rules between the names of a graph and the keys of a checkpoint."""

from __future__ import annotations

import shlex

import pytest

from finetune.compose import compose
from finetune.reading.index import Entry
from finetune.reading.renaming import as_override, fits, propose, renamed
from finetune.reading.variables import Variable
from tests.graphs import refusal


def variables(*names: str, shape: tuple[int, ...] = (3,)) -> list[Variable]:
    return [Variable(name, name, 1, shape, True, False) for name in names]


def entries(*keys: str, shape: tuple[int, ...] = (3,), dtype: int = 1) -> dict[str, Entry]:
    return {key: Entry(dtype, shape, 0, 0, 0) for key in keys}


def proposed(names: list[str], keys: list[str]) -> list[tuple[str, str]]:
    found = variables(*names)
    return propose(found, renamed(found, []), entries(*keys))


def test_rules_are_applied_in_order_as_re_sub_does():
    rules = [["^net/", "model/"], [r"model/(\d)", r"block_\1"]]
    assert renamed(variables("net/1/w", "net/2/w"), rules) == {"net/1/w": "block_1/w", "net/2/w": "block_2/w"}


def test_a_rule_that_matches_no_variable_is_refused_with_a_name():
    error = refusal(renamed, variables("net/w"), [["^nte/", ""]])
    assert (error.where, error.what) == (
        "source.rename",
        "the rule '^nte/' matches none of the 1 variables below the cut",
    )
    assert "net/w" in error.todo


@pytest.mark.parametrize(
    ("names", "keys", "rules"),
    [
        (["a/w", "b/w"], ["module/a/w", "module/b/w"], [("^", "module/")]),
        (["tower_0/a/w", "tower_0/b/w"], ["a/w", "b/w"], [("^tower_0/", "")]),
        (["vgg/a/w", "vgg/b/w"], ["VGG16/a/w", "VGG16/b/w"], [("^vgg/", "VGG16/")]),
        (["vgg/1/a/w", "vgg/2/b/w"], ["a/w", "b/w"], [("^vgg/[^/]+/", "")]),
        (["a.1/w"], ["b/w"], [(r"^a\.1/", "b/")]),
        (["a/w"], ["a/w/ExponentialMovingAverage"], [("$", "/ExponentialMovingAverage")]),
        (["a/lstm/weights", "a/out"], ["a/lstm/kernel", "a/out"], [("/weights$", "/kernel")]),
        (["a/w"], ["m/a/w/.ATTRIBUTES/VALUE"], [("^", "m/"), ("$", "/.ATTRIBUTES/VALUE")]),
        (["x/a/w", "y/b/w"], ["X/a/w", "Y/b/w"], [("^x/", "X/"), ("^y/", "Y/")]),
    ],
)
def test_the_rules_that_find_the_most_are_proposed(names, keys, rules):
    assert proposed(names, keys) == rules


def test_a_rule_that_loses_what_is_found_is_not_proposed():
    names = [f"layer{i}/w" for i in range(10)]
    assert proposed([*names, "fc/w"], [*names, "new/fc/w"]) == [("^fc/", "new/fc/")]


def test_optimizer_slots_and_other_shapes_are_never_proposed():
    assert proposed(["a/w"], ["a/w/Adam", "a/w/Momentum"]) == []
    found = variables("a/w")
    assert propose(found, renamed(found, []), entries("m/a/w", shape=(4,))) == []
    assert propose(found, renamed(found, []), entries("m/a/w", dtype=3)) == []


def test_a_rule_that_finds_few_is_not_proposed():
    assert proposed(["a/w", "b/x", "c/y"], ["m/a/w"]) == []


def test_two_variables_do_not_share_a_tensor():
    assert proposed(["a/x/w", "a/y/w", "a/z/w"], ["w"]) == []


@pytest.mark.parametrize("rule", [("^", "m/"), ("$", "/.ATTRIBUTES/VALUE"), (r"^a\.1/[^/]+/", r"it's/\1"), ('"', "")])
def test_a_proposal_can_be_pasted(rule):
    (word,) = shlex.split(as_override([rule]))
    assert compose(["recipe=vgg_2class", word]).recipe.source.rename == [list(rule)]


@pytest.mark.parametrize(
    ("declared", "fit"), [(None, True), ((3, 4), True), ((None, 4), True), ((3,), False), ((3, 5), False)]
)
def test_a_shape_may_be_left_open(declared, fit):
    assert fits(declared, (3, 4)) is fit
