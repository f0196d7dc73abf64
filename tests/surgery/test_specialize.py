"""Mode feeds become constants, inputs placeholders, and the author's machine is forgotten."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune.graph import attr, constant, make_node, read_constant, shape_of
from finetune.protos import AttrValue, GraphDef
from finetune.surgery import specialize
from finetune.surgery.specialize import dtype_and_shape, portable, replaced, with_constants, with_placeholders
from tests.graphs import (
    BOOL,
    FLOAT,
    INT,
    INT64,
    STRING,
    UINT8,
    every_golden,
    fed,
    golden,
    graph,
    node,
    refusal,
    shapes,
    stored,
    with_ops,
)


def queue():
    """A dequeued batch: images, and labels that the cut does not need."""
    types = {"list": AttrValue.ListValue(type=[FLOAT, INT])}
    return graph(
        make_node("batch", "QueueDequeueManyV2", component_types=types, _output_shapes=shapes((8, 3), (8,))),
        node("scaled", "Mul", "batch", "batch"),
        make_node("onehot", "OneHot", ["batch:1"]),
        node("out", "Relu", "scaled", "^batch"),
    )


# ---- constants


@pytest.mark.parametrize(
    ("dtype", "value"), [(FLOAT, 0.5), (FLOAT, 1), (INT, 3), (INT64, 1 << 40), (BOOL, False), (UINT8, 255), (2, 0.1)]
)
def test_a_fed_placeholder_becomes_a_constant_of_its_own_dtype_and_name(dtype, value):
    source = graph(fed("mode", dtype=dtype), node("out", "Identity", "mode"))
    after = with_constants(source, {"mode:0": value})
    assert read_constant(after.nodes["mode"]) == value
    assert attr(after.nodes["mode"], "dtype").type == dtype
    assert list(after.nodes) == ["mode", "out"]


def test_a_fed_value_may_be_an_array():
    after = with_constants(graph(fed("mean", 3)), {"mean:0": [1, 2, 3]})
    assert np.array_equal(read_constant(after.nodes["mean"]), [1, 2, 3])


@pytest.mark.parametrize(
    ("dtype", "value", "what"),
    [
        (FLOAT, "high", "'high' is no float32"),
        (FLOAT, None, "None is no float32"),
        (FLOAT, True, "True is no float32"),
        (FLOAT, [[1], [2, 3]], "[[1], [2, 3]] is no float32"),
        (INT, 0.5, "0.5 is no int32"),
        (INT, 1 << 40, "1099511627776 is no int32"),
        (INT, float("nan"), "nan is no int32"),
        (UINT8, -1, "-1 is no uint8"),
        (BOOL, 1, "1 is no bool"),
        (BOOL, "false", "'false' is no bool"),
        (STRING, "text", "'text' is no dtype 7"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(dtype, value, what):
    error = refusal(with_constants, graph(fed("mode", dtype=dtype)), {"mode:0": value})
    assert (error.where, error.what, error.status) == ("source.feeds.mode:0", what, 2)


def test_any_tensor_may_be_fed():
    after = with_constants(queue(), {"scaled:0": 2.0})
    assert after.nodes["scaled"].op == "Const"
    assert list(after.nodes["out"].input) == ["scaled", "^batch"]


def test_one_of_several_outputs_may_be_fed():
    after = with_constants(queue(), {"batch:1": 7})
    assert list(after.nodes["onehot"].input) == ["batch/output_1"]
    assert read_constant(after.nodes["batch/output_1"]) == 7
    assert list(after.nodes["scaled"].input) == ["batch", "batch"]
    assert after.nodes["batch"].op == "QueueDequeueManyV2"


# ---- placeholders


def test_an_input_that_is_a_placeholder_keeps_its_name():
    source = graph(fed("images", None, 3), node("out", "Relu", "images"))
    after, names = with_placeholders(source, {"x": "images:0"})
    assert names == {"x": "images:0"}
    assert after.nodes["images"] == source.nodes["images"]


def test_an_input_inside_the_graph_becomes_a_placeholder():
    after, names = with_placeholders(queue(), {"x": "scaled:0"})
    assert names == {"x": "scaled:0"}
    assert after.nodes["scaled"].op == "Placeholder"


def test_inputs_that_come_out_of_one_node_are_told_apart():
    after, names = with_placeholders(queue(), {"x": "batch:0", "y": "batch:1"})
    assert names == {"x": "batch/output_0:0", "y": "batch/output_1:0"}
    images, labels = after.nodes["batch/output_0"], after.nodes["batch/output_1"]
    assert (attr(images, "dtype").type, attr(labels, "dtype").type) == (FLOAT, INT)
    assert shape_of(attr(images, "shape").shape) == (8, 3)
    assert list(after.nodes["scaled"].input) == ["batch/output_0", "batch/output_0"]


def test_a_taken_name_is_not_taken_twice():
    source = queue()
    source = source.with_nodes({**source.nodes, "batch/output_1": fed("batch/output_1")})
    after, names = with_placeholders(source, {"y": "batch:1"})
    assert names == {"y": "batch/output_1_1:0"}
    assert list(after.nodes["onehot"].input) == ["batch/output_1_1"]


def test_the_source_graph_is_untouched():
    source = queue()
    before = stored(source)
    with_placeholders(with_constants(source, {"batch:1": 7}), {"x": "batch:0"})
    portable(source)
    assert stored(source) == before


def test_a_node_that_is_replaced_stays_in_its_place():
    assert list(replaced(queue(), "scaled:0", constant("new", 1.0)).nodes) == list(queue().nodes)


def test_open_placeholders_are_those_without_a_default():
    source = graph(fed("x"), make_node("d", "PlaceholderWithDefault", ["c"]), make_node("p", "PlaceholderV2"))
    assert [n.name for n in specialize.open_placeholders(source)] == ["x", "p"]


# ---- dtypes and shapes


def test_the_definition_of_an_op_says_what_it_gives():
    less = node("less", "Less", "x", "y")
    size = node("size", "Shape", "x", out_type={"type": INT})
    ops = {"Less": [{"name": "z", "type": BOOL}], "Shape": [{"name": "output", "type_attr": "out_type"}]}
    source = with_ops(graph(less, size), **ops)
    assert [dtype_and_shape(source, f"{name}:0")[0] for name in ("less", "size")] == [BOOL, INT]
    assert read_constant(with_constants(source, {"less:0": True}).nodes["less"])


@pytest.mark.parametrize(
    ("op", "attrs", "dtype"),
    [
        ("Relu", {"T": {"type": FLOAT}}, FLOAT),
        ("Cast", {"SrcT": {"type": INT}, "DstT": {"type": FLOAT}}, FLOAT),
        ("VariableV2", {"dtype": {"type": INT64}}, INT64),
        ("IteratorGetNext", {"output_types": {"list": AttrValue.ListValue(type=[STRING])}}, STRING),
        ("ParseExample", {"Tdense": {"list": AttrValue.ListValue(type=[FLOAT])}}, FLOAT),
    ],
)
def test_without_a_definition_attributes_say_it(op, attrs, dtype):
    assert dtype_and_shape(graph(make_node("n", op, **attrs)), "n:0") == (dtype, None)


def test_a_dtype_that_nothing_says_is_refused():
    error = refusal(dtype_and_shape, graph(make_node("n", "Mine")), "n:0")
    assert (error.where, error.what) == ("n:0", "the file does not say which dtype a Mine gives")


def test_a_shape_is_that_of_the_placeholder_or_what_was_recorded():
    source = graph(fed("x", None, 4), node("y", "Relu", "x", _output_shapes=shapes((None, 5))))
    assert shape_of(dtype_and_shape(source, "x:0")[1]) == (None, 4)
    assert shape_of(dtype_and_shape(source, "y:0")[1]) == (None, 5)


@pytest.mark.parametrize(("producer", "known"), [(23, None), (24, ())])
def test_an_old_file_wrote_an_unknown_shape_as_a_scalar(producer, known):
    source = graph(fed("x"))
    source = type(source)(source.nodes, versions=GraphDef(versions={"producer": producer}).versions)
    found = dtype_and_shape(source, "x:0")[1]
    assert (None if found is None else shape_of(found)) == known


def test_an_old_file_may_have_recorded_the_shape_of_a_placeholder():
    source = graph(make_node("x", "Placeholder", dtype={"type": FLOAT}, _output_shapes=shapes([None, 249, 39])))
    assert shape_of(dtype_and_shape(source, "x:0")[1]) == (None, 249, 39)


def test_a_shape_that_is_not_recorded_is_unknown():
    assert dtype_and_shape(graph(make_node("x", "Placeholder", dtype={"type": FLOAT})), "x:0") == (FLOAT, None)


# ---- what was left over


def test_devices_colocation_and_stale_shapes_are_forgotten():
    relu = node("relu", "Relu", "x", _output_shapes=shapes((1,)), _class={"s": b"loc:@x"}, mine={"i": 3})
    relu.device = "/job:ps/task:3/device:GPU:7"
    after = portable(graph(fed("x"), relu)).nodes
    assert after["relu"].device == ""
    assert sorted(after["relu"].attr) == ["T", "mine"]


@every_golden
def test_a_portable_golden_knows_no_device(name):
    for n in portable(golden(name).graph).nodes.values():
        assert not n.device
        assert not {"_output_shapes", "_class"} & set(n.attr)


def test_a_gradient_that_was_python_becomes_the_ordinary_one():
    source = graph(node("relu", "Relu", "x", _gradient_op_type={"s": b"Guided"}), node("tanh", "Tanh", "x"))
    assert specialize.python_gradients(source) == ["relu"]
    after = portable(source)
    assert specialize.python_gradients(after) == []
    assert after.nodes["tanh"] is source.nodes["tanh"]


def test_how_a_function_is_called_is_forgotten_and_so_is_what_its_nodes_were_for():
    call = node(
        "call", "PartitionedCall", "x", config_proto={"s": b"xx"}, executor_type={"s": b"y"}, _kernel={"s": b"z"}
    )
    inner = node("write", "Relu", "a", _class={"s": b"loc:@x"}, _lower_using_switch_merge={"b": True})
    inner.device = "/gpu:7"
    function = GraphDef().library.function.add(node_def=[inner])
    function.attr["_XlaMustCompile"].b = True
    source = replace(graph(fed("x"), call), functions=(function,))
    after = portable(source)
    ((body,),) = [f.node_def for f in after.functions]
    assert sorted(after.nodes["call"].attr) == ["T"]
    assert (sorted(body.attr), body.device) == (["T", "_lower_using_switch_merge"], "")
    assert not after.functions[0].attr
    assert function.node_def[0].device
