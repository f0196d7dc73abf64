"""The source up to the cut, made for one phase, and what is said where something feeds nothing."""

from __future__ import annotations

import pytest

from finetune.graph import attr, constant, make_node, read_constant, recorded_shape
from finetune.names import node_of
from finetune.reading.variables import Update, find_updates
from finetune.surgery.backbone import Backbone, default_feeds, find_inputs, make_backbone, mode_feeds
from finetune.surgery.cut import cut
from finetune.surgery.randomness import SEED
from tests.graphs import (
    BOOL,
    FLOAT,
    INT,
    cond_graph,
    every_golden,
    fed,
    golden,
    graph,
    loop_graph,
    node,
    refusal,
    shapes,
    stored,
    variable,
)


def dense(*more):
    """tanh(x * w + b), with dropout by `keep_prob` before it."""
    return graph(
        fed("x", None, 4),
        fed("keep_prob"),
        variable("w", 4, 3),
        variable("b", 3),
        node("drop", "RealDiv", "x", "keep_prob"),
        node("mul", "MatMul", "drop", "w", "^drop"),
        node("sum", "BiasAdd", "mul", "b"),
        node("tanh", "Tanh", "sum", _output_shapes=shapes((None, 3))),
        *more,
    )


# ---- a backbone


def test_a_backbone_is_a_graph_of_placeholders():
    found = make_backbone(dense(), ["tanh:0"], {"x": "x:0"}, {"keep_prob:0": 1.0})
    assert (dict(found.inputs), found.shapes, found.updates) == ({"x": "x:0"}, {"tanh:0": (None, 3)}, ())
    assert {n: found.graph.nodes[n].op for n in ("x", "w", "b", "keep_prob")} == {
        "x": "Placeholder",
        "w": "Placeholder",
        "b": "Placeholder",
        "keep_prob": "Const",
    }
    assert recorded_shape(found.graph.nodes["tanh"], 0) is None  # stale, but taken along as `shape`


@every_golden
@pytest.mark.parametrize("phase", ["train", "eval"])
def test_a_backbone_of_a_golden_has_no_open_end(name, phase):
    source = golden(name)
    before = stored(source.graph)
    updates = find_updates(source.meta, source.graph, cut(source.graph, [source.cut]))
    found = make_backbone(source.graph, [source.cut], source.inputs, source.feeds[phase], updates)
    nodes = found.graph.nodes
    open_ = {n.name for n in nodes.values() if n.op == "Placeholder"} - {SEED}
    assert open_ <= {node_of(t) for t in found.inputs.values()} | set(source.keys)
    assert {node_of(ref) for n in nodes.values() for ref in n.input} <= set(nodes)
    assert not [n.name for n in nodes.values() if n.device]
    assert stored(source.graph) == before


def test_an_input_that_the_cut_does_not_need_is_left_out():
    found = make_backbone(dense(fed("mask", 3)), ["tanh:0"], {"x": "x:0", "m": "mask:0"}, {"keep_prob:0": 1.0})
    assert dict(found.inputs) == {"x": "x:0"}


def test_feeds_that_the_cut_does_not_need_are_left_out():
    source = dense(fed("learning_rate"))
    found = make_backbone(source, ["tanh:0"], {"x": "x:0"}, {"keep_prob:0": 1.0, "learning_rate:0": 0.1})
    assert "learning_rate" not in found.graph.nodes


def test_an_update_is_kept_as_the_value_that_it_would_assign():
    more = [
        variable("mean", 3),
        node("moments", "Mean", "sum"),
        node("update", "AssignSub", "mean", "moments"),
        node("centred", "Sub", "tanh", "mean"),
    ]
    feeds, updates = {"keep_prob:0": 1.0}, [Update("update", "mean")]
    found = make_backbone(dense(*more), ["centred:0"], {"x": "x:0"}, feeds, updates)
    assert found.updates == (Update("update", "mean"),)
    assert (found.graph.nodes["update"].op, list(found.graph.nodes["update"].input)) == ("Sub", ["mean", "moments"])
    assert "update" not in make_backbone(dense(*more), ["centred:0"], {"x": "x:0"}, feeds).graph.nodes


@pytest.mark.parametrize(("phase", "count"), [("train", 4), ("eval", 0)])
def test_updates_in_a_dead_branch_are_none(phase, count):
    source = golden("bn_side_effect")
    updates = find_updates(source.meta, source.graph, cut(source.graph, [source.cut]))
    assert len(updates) == 4
    found = make_backbone(source.graph, [source.cut], source.inputs, source.feeds[phase], updates)
    assert len(found.updates) == count


def test_a_cut_in_a_branch_that_is_switched_off_is_refused():
    error = refusal(make_backbone, cond_graph(), ["cond/mul:0"], {"x": "x:0"}, {"training:0": False})
    assert (error.where, error.todo) == ("cut", "look at source.feeds")
    assert error.what == "'cond/mul:0' is in a branch that the feeds switch off"


def test_a_cut_in_the_branch_that_is_taken_is_none_the_worse():
    found = make_backbone(cond_graph(), ["cond/mul:0"], {"x": "x:0"}, {"training:0": True})
    assert list(found.graph.nodes["cond/mul"].input) == ["x", "a"]


def test_a_cut_inside_a_loop_is_refused():
    error = refusal(make_backbone, loop_graph(), ["loop/Mul:0"], {"x": "x:0"}, {})
    assert (error.where, error.todo) == ("cut", "name a tensor behind it")
    assert error.what.startswith("'loop/Mul:0' stands inside 'loop/while_context'")


def test_an_input_inside_a_loop_is_refused():
    error = refusal(make_backbone, loop_graph(), ["out:0"], {"x": "loop/x:0"}, {})
    assert error.where == "source.inputs"


# ---- feeds of a phase


def test_a_feed_has_one_value_or_one_for_each_phase():
    feeds = {"keep_prob": {"train": 0.5, "eval": 1.0}, "scale:0": 2}
    assert mode_feeds(feeds, "train") == {"keep_prob:0": 0.5, "scale:0": 2}
    assert mode_feeds(feeds, "eval") == {"keep_prob:0": 1.0, "scale:0": 2}


@pytest.mark.parametrize("value", [{"train": 0.5}, {"train": 0.5, "test": 1.0}, {}])
def test_a_feed_without_both_phases_is_refused(value):
    error = refusal(mode_feeds, {"keep_prob": value}, "train")
    assert (error.where, error.todo) == ("source.feeds.keep_prob", "give a value, or train and eval")
    assert error.what == f"has the keys {sorted(value)}"
    assert error.status == 2


def defaulted():
    default = make_node("is_training", "PlaceholderWithDefault", ["yes"], dtype={"type": BOOL})
    return graph(constant("yes", True), default, node("s", "Switch", "x", "is_training"))


@pytest.mark.parametrize(("learns", "train"), [(True, True), (False, False)])
def test_a_frozen_part_runs_in_inference_mode(learns, train):
    assert default_feeds(defaulted(), {}, learns) == {"is_training:0": {"train": train, "eval": False}}


def test_what_the_recipe_feeds_has_no_default():
    assert default_feeds(defaulted(), {"is_training:0": True}, learns=False) == {}


# ---- inputs


def test_the_one_open_placeholder_is_the_input():
    assert find_inputs(dense(), ["tanh:0"], {}, ["keep_prob:0"]) == {"x": "x:0"}


def test_the_field_is_the_last_part_of_the_name():
    source = graph(fed("net/in/images", None), node("out", "Relu", "net/in/images"))
    assert find_inputs(source, ["out:0"], {}, []) == {"images": "net/in/images:0"}


def test_given_inputs_are_taken_as_they_are():
    assert find_inputs(dense(), ["tanh:0"], {"features": "sum:0"}, []) == {"features": "sum:0"}


@every_golden
def test_a_golden_finds_its_inputs(name):
    source = golden(name)
    given = source.inputs if len(source.inputs) > 1 else {}
    assert find_inputs(source.graph, [source.cut], given, source.feeds["eval"]) == source.inputs


def test_an_unfed_mode_is_named_with_the_feed_to_add():
    error = refusal(find_inputs, dense(), ["tanh:0"], {}, [])
    assert (error.where, error.status) == ("source.feeds", 3)
    assert error.what == "cut 'tanh:0' needs 'keep_prob:0' (float, scalar), which nothing feeds"
    assert error.todo == "add source.feeds.keep_prob: 1.0"


def test_all_unfed_modes_are_named_at_once():
    more = [fed("is_training", dtype=BOOL), node("s", "Switch", "tanh", "is_training")]
    error = refusal(find_inputs, dense(*more), ["s:0"], {}, [])
    assert "'keep_prob:0' (float, scalar), 'is_training:0' (bool, scalar)" in error.what
    assert error.todo == "add source.feeds.keep_prob: 1.0; source.feeds.is_training: False"


def two_inputs():
    unknown = make_node("right", "Placeholder", dtype={"type": INT})
    unknown.attr["shape"].shape.unknown_rank = True
    return graph(fed("left", None, 4, 4, 3), unknown, node("out", "Sub", "left", "right"))


def test_unfed_placeholders_are_named_with_dtype_and_shape():
    error = refusal(find_inputs, two_inputs(), ["out:0"], {}, [])
    assert error.where == "source.inputs"
    assert error.what == (
        "cut 'out:0' needs 'left:0' (float, ?×4×4×3), 'right:0' (int32, unknown shape), which nothing feeds"
    )
    assert error.todo == "name them in source.inputs (field: tensor) or give them values in source.feeds"


def test_one_unfed_placeholder_beside_a_given_input_is_named():
    error = refusal(find_inputs, two_inputs(), ["out:0"], {"a": "left:0"}, [])
    assert error.what == "cut 'out:0' needs 'right:0' (int32, unknown shape), which nothing feeds"


def test_a_cut_that_depends_on_no_input_is_refused():
    source = graph(fed("x"), variable("w", 3), node("out", "Relu", "w"))
    for given in ({}, {"x": "x:0"}):
        error = refusal(find_inputs, source, ["out:0"], given, [])
        assert (error.where, error.what) == ("source.inputs", "cut 'out:0' depends on no input")


def test_an_input_that_the_cut_does_not_depend_on_is_refused():
    source = dense(fed("mask", 3))
    error = refusal(find_inputs, source, ["tanh:0"], {"x": "x:0", "m": "mask:0"}, ["keep_prob:0"])
    assert (error.where, error.todo) == ("source.inputs.m", "leave it out")
    assert error.what == "cut 'tanh:0' does not depend on 'mask:0'"


def test_a_constant_feed_is_in_the_graph_of_its_phase():
    for value in (0.5, 1.0):
        found: Backbone = make_backbone(dense(), ["tanh:0"], {"x": "x:0"}, {"keep_prob:0": value})
        assert read_constant(found.graph.nodes["keep_prob"]) == value
        assert attr(found.graph.nodes["keep_prob"], "dtype").type == FLOAT
