"""A source has a backbone for training and one for evaluation, and says for both what learns."""

from __future__ import annotations

import pytest

from finetune.surgery.source import read_source
from finetune.surgery.variants import Variants, make_variants
from tests.graphs import golden


def variants(name: str, feeds: object = None, stop_gradient: bool | list[str] = False, learn=()) -> Variants:
    about = golden(name)
    given = {} if feeds is None else dict.fromkeys(about.feeds["eval"], feeds)
    return make_variants(read_source(str(about.folder), about.cut, about.inputs, given), stop_gradient, learn)


def statistics(name: str) -> set[str]:
    return golden(name).keys.keys() - set(golden(name).trainable)


def test_every_trainable_variable_has_a_rate():
    assert variants("conv_ref", 1.0).rates() == dict.fromkeys(golden("conv_ref").trainable, 1.0)


def test_behind_a_barrier_at_the_cut_there_is_none():
    found = variants("conv_ref", 1.0, stop_gradient=True)
    assert (found.rates(), found.barriers) == ({}, ["fc7:0"])


def test_a_rule_gives_the_rate():
    found = variants("conv_ref", 1.0, learn=[["fc.*/weights", 0.1], [".*", 0]]).rates()
    assert set(found.values()) == {0.1}
    assert all(name.startswith("fc") for name in found)


@pytest.mark.parametrize("name", ["bn_cond", "bn_moments", "bn_side_effect"])
def test_statistics_move_in_training_and_never_by_a_gradient(name):
    found = variants(name, {"train": True, "eval": False})
    assert {u.variable for u in found.training.updates} == statistics(name)
    assert found.evaluation.updates == ()
    assert found.rates().keys() == set(golden(name).trainable)


@pytest.mark.parametrize("name", ["bn_cond", "bn_side_effect"])
def test_statistics_whose_updates_are_switched_off_have_no_gradient_either(name):
    assert variants(name, False).rates().keys() == set(golden(name).trainable)


def test_frozen_statistics_are_not_updated():
    assert variants("bn_cond", {"train": True, "eval": False}, stop_gradient=True).training.updates == ()


def test_statistics_below_a_barrier_are_not_updated():
    found = variants("bn_cond", {"train": True, "eval": False}, stop_gradient=["block1/Relu6:0"])
    assert {u.variable for u in found.training.updates} == {n for n in statistics("bn_cond") if n.startswith("block2")}


@pytest.mark.parametrize(("stop_gradient", "train"), [(True, False), (False, True)])
def test_a_default_of_training_is_for_what_learns(stop_gradient, train):
    assert variants("bn_cond", stop_gradient=stop_gradient).feeds == {"is_training:0": {"train": train, "eval": False}}
