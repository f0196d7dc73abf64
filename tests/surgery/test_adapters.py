"""Which matrices may learn through small ones, and which may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from finetune.recipe import Lora
from finetune.surgery.source import read_source
from finetune.surgery.variants import Variants, make_variants
from tests.graphs import golden, refusal


def phases(*match: str, name: str = "conv_ref", stop: Any = False, learn: Sequence[Any] = (), **given: Any) -> Variants:
    about = golden(name)
    lora = Lora(list(match), **{"rank": 2, **given.pop("lora", {})})
    source = read_source(str(about.folder), about.cut, about.inputs, about.feeds["eval"])
    return make_variants(source, stop, learn, lora=lora, **given)


def test_a_matrix_and_a_kernel_have_small_ones_of_their_rows_and_columns():
    found = {a.variable: a for a in phases("conv1/weights", "fc7/weights", lora={"alpha": 6.0}).adapters}
    conv = found["conv1/weights"]
    height, width, wide, out = conv.shape
    assert conv.shapes == {"lora/conv1/weights/a": (height * width * wide, 2), "lora/conv1/weights/b": (2, out)}
    assert (conv.scale, conv.rate) == (3.0, 1.0)
    assert found.keys() == {"conv1/weights", "fc7/weights"}


@pytest.mark.parametrize(
    ("name", "match"),
    [("dense_resource", "hidden/kernel"), ("rnn_while", ".*/gates/kernel"), ("cond_data", "positive/kernel")],
)
def test_a_matrix_is_found_behind_resources_loops_and_branches(name: str, match: str):
    assert len(phases(match, name=name).adapters) == 1


def test_all_else_is_frozen_unless_a_rule_says_otherwise():
    assert phases("fc7/weights").rates() == {}
    assert phases("fc7/weights", learn=[[".*/biases", 0.5]]).rates() == {
        "conv1/biases": 0.5,
        "fc6/biases": 0.5,
        "fc7/biases": 0.5,
    }
    whys = {f.variable.name: (f.why, f.rule) for f in phases("fc7/weights").fates}
    assert whys["fc7/weights"] == ("frozen: lora of rank 2 learns in its place", None)
    assert whys["fc6/weights"] == ("frozen: no rule names it", None)
    said = {f.variable.name: f.rule for f in phases("fc7/weights", learn=[[".*", 0]]).fates}
    assert set(said.values()) == {".*"}


def test_without_a_pattern_everything_is_as_it_was():
    assert phases().adapters == ()
    assert phases().rates().keys() == set(golden("conv_ref").trainable)


def test_statistics_of_a_frozen_layer_do_not_move_and_it_runs_in_evaluation():
    about = golden("bn_cond")
    source = read_source(str(about.folder), about.cut, about.inputs, {})
    found = make_variants(source, False, [], lora=Lora([".*/weights"], rank=2))
    assert found.training.updates == ()
    assert found.feeds == {"is_training:0": {"train": False, "eval": False}}


def test_the_rate_falls_with_the_distance():
    rates = {a.variable: a.rate for a in phases("fc[67]/weights", learn_decay=0.5).adapters}
    assert rates == {"fc6/weights": 0.25, "fc7/weights": 0.5}


REFUSED = [
    (("fc9/weights",), {}, "lora.match[0]", "'fc9/weights' matches none of the 6 variables below the cut"),
    (("fc7/weights", "fc9/w"), {}, "lora.match[1]", "'fc9/w' matches none"),
    (("fc7/.*",), {}, "lora.match[0]", "is no matrix of a MatMul and no kernel of a Conv2D: BiasAdd reads it"),
    (("embedding/.*",), {"name": "embedding"}, "lora.match[0]", "Gather"),
    (("fc7/weights",), {"stop": True}, "lora.match[0]", "no gradient reaches fc7/weights past the barrier fc7:0"),
    (("fc7/weights",), {"learn": [["fc7/.*", 0.1]]}, "lora.match[0]", "learns by itself: rule 'fc7/.*'"),
    (("fc7/weights",), {"lora": {"rank": 1000}}, "lora.rank", "1000 is more than 'fc7/weights'"),
]


@pytest.mark.parametrize(("match", "given", "where", "what"), REFUSED)
def test_what_cannot_be_meant_is_refused(match: tuple[str, ...], given: dict[str, Any], where: str, what: str):
    error = refusal(phases, *match, **given)
    assert error.where == where
    assert what in error.what
