"""What a cut needs is a graph: checked on protobuf, before TensorFlow sees it."""

from __future__ import annotations

import pytest

from finetune.surgery.soundness import check_sound
from tests.graphs import every_golden, fed, golden, graph, loop_graph, meta_of, node, refusal, with_ops


def checked(source):
    return check_sound(meta_of(source), source)


@every_golden
def test_goldens_are_sound(name):
    source = golden(name)
    check_sound(source.meta, source.graph)


def test_a_loop_runs_in_a_circle_and_may():
    checked(loop_graph())


def test_a_circle_is_shown():
    circle = [node("a", "Add", "x", "c"), node("b", "Relu", "a"), node("c", "Relu", "b"), node("out", "Relu", "b")]
    error = refusal(checked, graph(fed("x", 3), *circle))
    assert error.what == "the graph runs in a circle outside any loop: a → c → b → a"


def test_a_node_that_waits_for_itself_is_a_circle():
    assert "a → a" in refusal(checked, graph(node("a", "Relu", "x", "^a"), fed("x", 3))).what


@pytest.mark.parametrize(("ref", "fits"), [("split:1", True), ("split:2", False)])
def test_an_output_has_to_be_there(ref, fits):
    source = graph(fed("x", 4), node("split", "Split", "x", num_split={"i": 2}), node("out", "Relu", ref))
    source = with_ops(source, Split=[{"type_attr": "T", "number_attr": "num_split"}])
    if fits:
        return checked(source)
    error = refusal(checked, source)
    assert (error.where, error.what) == ("out", "reads 'split:2', but 'split' (Split) has 2 outputs")


def test_a_name_may_stand_once():
    source = graph(fed("x", 3), node("out", "Relu", "x"))
    meta = meta_of(source)
    meta.graph_def.node.add().CopyFrom(source.nodes["x"])
    error = refusal(check_sound, meta, source)
    assert (error.where, error.what) == ("x", "the file has more than one node x")
