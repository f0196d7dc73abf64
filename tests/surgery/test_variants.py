"""A source has a backbone for training and one for evaluation, and says for both what learns."""

from __future__ import annotations

import pytest

from finetune.surgery.source import read_source
from finetune.surgery.variants import Variants, make_variants
from tests.graphs import golden, refusal


def variants(
    name: str, feeds: object = None, stop_gradient: bool | list[str] = False, learn=(), decay=None
) -> Variants:
    about = golden(name)
    given = {} if feeds is None else dict.fromkeys(about.feeds["eval"], feeds)
    return make_variants(read_source(str(about.folder), about.cut, about.inputs, given), stop_gradient, learn, decay)


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


def test_each_layer_takes_its_part_of_the_rate_and_a_rule_times_that():
    found = variants("conv_ref", 1.0, decay=0.5).rates()
    assert {name: found[f"{name}/weights"] for name in ("conv1", "fc6", "fc7")} == {
        "conv1": 0.125,
        "fc6": 0.25,
        "fc7": 0.5,
    }
    found = variants("conv_ref", 1.0, learn=[["conv1/.*", 0], ["fc6/.*", 0.1], [".*", 1]], decay=0.5).rates()
    assert {name: found.get(f"{name}/biases") for name in ("conv1", "fc6", "fc7")} == {
        "conv1": None,
        "fc6": 0.025,
        "fc7": 0.5,
    }


def test_statistics_have_no_rate_to_take_a_part_of():
    fates = {f.variable.name: f.rate for f in variants("bn_cond", {"train": True, "eval": False}, decay=0.5).fates}
    assert {fates[name] for name in statistics("bn_cond")} == {1.0}
    assert fates["block1/bn/gamma"] == fates["block1/weights"] == 0.25


def test_parts_of_a_rate_that_nothing_has_are_refused():
    error = refusal(variants, "conv_ref", 1.0, stop_gradient=True, decay=0.5)
    assert (error.where, error.what) == ("learn_decay", "0.5 is asked for, but no variable of the source learns")


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
