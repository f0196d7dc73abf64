"""Every variable starts from a tensor of the checkpoint, or from something that the recipe allows by name."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.graph import constant
from finetune.reading.index import Entry
from finetune.reading.settle import AS_SAVED, Wishes, averages_of, settle
from finetune.reading.variables import find_variables
from tests.graphs import FLOAT, STRING, graph, meta_of, node, refusal, variable

EMA = "/ExponentialMovingAverage"


def settled(checkpoint: dict[str, tuple[int, ...]], wishes: Wishes = AS_SAVED, *variables):
    """`conv/w` and `fc/w`, both [2, 3], with a checkpoint of these shapes; fc's initialiser is a constant."""
    nodes = variables or (variable("conv/w", 2, 3), variable("fc/w", 2, 3))
    start = [constant("value", np.full((2, 3), 5.0), FLOAT), node("fc/w/Assign", "Assign", "fc/w", "value")]
    source = graph(*nodes, *start)
    entries = {key: Entry(FLOAT, shape, 0, 0, 0) for key, shape in checkpoint.items()}
    meta = meta_of(source)
    return settle(meta, source, find_variables(meta, source), entries, "model", wishes)


BOTH = {"conv/w": (2, 3), "fc/w": (2, 3)}


def test_without_wishes_every_variable_has_its_own_tensor():
    start = settled(BOTH)
    assert start.keys == {"conv/w": "conv/w", "fc/w": "fc/w"}
    assert (start.averaged, start.missing) == (frozenset(), {})


def test_a_variable_may_have_another_name_in_the_checkpoint():
    start = settled({"m/conv/w": (2, 3), "m/fc/w": (2, 3)}, Wishes(rename=[["^", "m/"]]))
    assert start.keys == {"conv/w": "m/conv/w", "fc/w": "m/fc/w"}
    error = refusal(settled, {"m/conv/w": (9,), "m/fc/w": (2, 3)}, Wishes(rename=[["^", "m/"]]))
    assert error.what == "variable 'conv/w' is 2×3 in the graph, 9 in the checkpoint, as 'm/conv/w'"


# ---- what the checkpoint may lack


def test_a_variable_that_may_be_missing_starts_anew():
    start = settled({"conv/w": (2, 3)}, Wishes(allow_missing=["fc/.*"]))
    assert start.keys == {"conv/w": "conv/w"}
    assert start.shapes["fc/w"] == (2, 3)
    assert start.missing["fc/w"].tolist() == [[5.0] * 3] * 2
    assert settled({"fc/w": (2, 3)}, Wishes(allow_missing=[".*"])).missing == {"conv/w": None}


def test_a_variable_that_may_be_missing_and_is_there_is_read():
    assert settled(BOTH, Wishes(allow_missing=["fc/.*"])).missing == {}


def test_other_variables_may_still_not_be_missing():
    error = refusal(settled, {"x": (1,)}, Wishes(allow_missing=["fc/.*"]))
    assert error.what == "the checkpoint lacks conv/w: 1 of 2 variables below the cut"


def test_a_rule_that_matches_no_variable_is_refused():
    error = refusal(settled, BOTH, Wishes(allow_missing=["fc"]))
    assert (error.where, error.status) == ("source.allow_missing", 2)
    assert error.what == "the rule 'fc' matches none of the 2 variables below the cut"


@pytest.mark.parametrize(
    ("unclear", "says"),
    [
        (variable("fc/w", None, 3), "its shape is ?×3"),
        (variable("fc/w", 2**20, 2**20), "its shape is 1048576×1048576"),
        (variable("fc/w", 3, dtype=STRING), "it is string"),
    ],
)
def test_what_has_no_definite_values_cannot_start_anew(unclear, says):
    error = refusal(settled, {}, Wishes(allow_missing=[".*"]), unclear)
    assert error.where == "source.allow_missing"
    assert error.what.endswith(says)


# ---- averages


def test_averages_take_the_place_of_what_they_are_averages_of():
    there = {**BOTH, f"conv/w{EMA}": (2, 3)}
    assert settled(there).averaged == frozenset()
    start = settled(there, Wishes(averages=True))
    assert start.keys == {"conv/w": f"conv/w{EMA}", "fc/w": "fc/w"}
    assert start.averaged == {"conv/w"}


def test_averages_need_not_have_what_they_are_averages_of():
    there = {f"conv/w{EMA}": (2, 3), f"fc/w{EMA}": (2, 3)}
    assert settled(there, Wishes(averages=True)).averaged == {"conv/w", "fc/w"}


def test_an_average_may_be_in_the_scope_that_made_it():
    assert settled({**BOTH, f"train/conv/w{EMA}": (2, 3)}, Wishes(averages=True)).averaged == {"conv/w"}


@pytest.mark.parametrize(
    "there",
    [
        BOTH,
        {**BOTH, f"conv/w{EMA}": (2, 4)},
        {**BOTH, "train/conv/w": (2, 3), f"train/conv/w{EMA}": (2, 3)},
        {**BOTH, f"a/conv/w{EMA}": (2, 3), f"b/conv/w{EMA}": (2, 3)},
    ],
)
def test_averages_of_something_else_are_refused(there):
    error = refusal(settled, there, Wishes(averages=True))
    assert error.where == "source.weights"
    assert "no moving average of any of the 2 variables" in error.what


def test_averages_are_looked_for_under_the_new_name():
    source = graph(variable("w", 2))
    (found,) = find_variables(meta_of(source), source)
    assert averages_of([found], {"w": "m/w"}, {f"m/w{EMA}": Entry(FLOAT, (2,), 0, 0, 0)}) == {"w": f"m/w{EMA}"}
