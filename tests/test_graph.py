"""A graph that can be held, compared and written back."""

from __future__ import annotations

import numpy as np
import pytest

from finetune import graph as graphs
from finetune.graph import Graph, attr, changed, constant, from_meta, make_node, read_constant, rewired, to_meta
from finetune.protos import AttrValue, TensorProto
from tests.graphs import (
    FLOAT,
    INT,
    STRING,
    cond_graph,
    every_golden,
    fed,
    golden,
    graph,
    loop_graph,
    node,
    shape,
    shapes,
    stored,
    strings,
    variable,
    with_ops,
)


@every_golden
def test_a_graph_is_written_back_as_it_was_read(name):
    source = golden(name).graph
    again = from_meta(to_meta(source))
    assert list(again.nodes) == [n.name for n in golden(name).meta.graph_def.node]
    assert stored(again) == stored(source)


def test_only_contexts_come_along_of_all_collections():
    meta = golden("bn_cond").meta
    assert {"train_op", "update_ops"} <= meta.collection_def.keys()
    assert list(to_meta(from_meta(meta)).collection_def) == ["cond_context"]


def test_a_context_that_cannot_be_parsed_is_left_out():
    meta = to_meta(cond_graph())
    meta.collection_def["cond_context"].bytes_list.value.append(b"\xff\xff")
    assert len(from_meta(meta).conds) == 2


def test_looking_up_an_attribute_adds_none():
    relu = node("relu", "Relu", "x")
    before = relu.SerializeToString()
    assert attr(relu, "shape") == AttrValue()
    assert not attr(relu, "shape").shape.dim
    assert relu.SerializeToString() == before


def test_inputs_are_values_or_order():
    add = node("add", "Add", "x", "y:1", "^init")
    assert graphs.data_inputs(add) == ["x", "y:1"]
    assert graphs.control_inputs(add) == ["^init"]


def test_consumers_read_or_wait_and_are_named_once():
    nodes = graph(fed("x"), node("add", "Add", "x", "x"), node("group", "NoOp", "^x", "^add")).nodes
    assert graphs.consumers(nodes) == {"x": ["add", "group"], "add": ["group"]}


def test_a_changed_node_is_a_copy():
    relu = node("relu", "Relu", "x")
    before = relu.SerializeToString()
    new = changed(relu, name="elu", op="Elu", input=["y", "^z"], attrs={"T": AttrValue(type=INT)})
    assert (new.name, new.op, list(new.input), attr(new, "T").type) == ("elu", "Elu", ["y", "^z"], INT)
    assert changed(relu, input=[]).op == "Relu"
    assert relu.SerializeToString() == before


def test_rewiring_touches_only_what_reads_the_old_name():
    nodes = graph(fed("x"), fed("y"), node("a", "Relu", "x"), node("b", "Relu", "x:1"), node("c", "NoOp", "^x")).nodes
    new = rewired(nodes, {"x": "y"})
    assert [list(n.input) for n in new.values()] == [[], [], ["y"], ["x:1"], ["^x"]]
    assert list(nodes["a"].input) == ["x"]
    assert new["b"] is nodes["b"]
    assert rewired(nodes, {}) == dict(nodes)


def test_new_nodes_take_tensor_names_and_write_inputs():
    new = make_node("add", "AddV2", ["x:0", "y:1", "^z"], T={"type": FLOAT}, N={"i": 2}, s={"shape": shape(None, 3)})
    assert list(new.input) == ["x", "y:1", "^z"]
    assert (attr(new, "N").i, graphs.shape_of(attr(new, "s").shape)) == (2, (None, 3))


# ---- constants


@pytest.mark.parametrize("enum", graphs.DTYPES)
def test_a_constant_is_read_as_it_was_written(enum):
    value = np.array([[0, 1, 1], [1, 0, 1]], graphs.DTYPES[enum])
    found = read_constant(constant("c", value))
    assert found is not None
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert np.array_equal(found, value)
    assert read_constant(constant("c", 1, enum)) == 1


def listed(shape_: tuple[int, ...], dtype: int, **values: list) -> np.ndarray | None:
    """A constant in the form in which values are listed one by one."""
    new = make_node("c", "Const", dtype={"type": dtype})
    new.attr["value"].tensor.CopyFrom(TensorProto(dtype=dtype, tensor_shape=shape(*shape_), **values))
    return read_constant(new)


def test_listed_values_are_read_too():
    assert np.array_equal(listed((2,), FLOAT, float_val=[1.5, 2.5]), [1.5, 2.5])
    assert np.array_equal(listed((2,), 9, int64_val=[3, 1 << 40]), [3, 1 << 40])
    assert np.array_equal(listed((2,), 4, int_val=[3, 255]), np.array([3, 255], np.uint8))
    assert np.array_equal(listed((1,), 19, half_val=[0x3C00]), np.array([1], np.float16))
    assert listed((), 10, bool_val=[True]) == np.array(True)


def test_the_last_listed_value_stands_for_the_rest():
    found = listed((2, 2), FLOAT, float_val=[1.0, 2.0])
    assert np.array_equal(found, [[1, 2], [2, 2]])
    assert np.array_equal(listed((0,), FLOAT), np.zeros(0))


@pytest.mark.parametrize("sizes", [(2**40,), (-1,), (2**31, 2**31)])
def test_a_value_that_would_fill_the_memory_is_not_unfolded(sizes):
    bomb = constant("c", [1.0])
    bomb.attr["value"].tensor.tensor_content = b""
    bomb.attr["value"].tensor.float_val.append(1.0)
    bomb.attr["value"].tensor.tensor_shape.CopyFrom(shape(*sizes))
    assert read_constant(bomb) is None


def test_texts_are_bytes():
    assert list(read_constant(strings("names", "a", "größe"))) == [b"a", "größe".encode()]


def test_what_is_no_constant_of_known_values_has_none():
    assert read_constant(fed("x")) is None
    assert listed((3,), FLOAT) is None  # no value to repeat
    assert listed((), 8) is None  # complex numbers are never a mode
    short = constant("c", np.zeros(4, np.float32))
    short.attr["value"].tensor.tensor_shape.dim[0].size = 5
    assert read_constant(short) is None
    short.attr["value"].tensor.tensor_content = b"\0\0\0"
    assert read_constant(short) is None


def test_a_constant_of_a_dtype_that_cannot_be_written_is_refused():
    with pytest.raises(KeyError):
        constant("c", "text", STRING)


# ---- shapes and dtypes


def test_an_unknown_rank_is_no_scalar():
    assert graphs.shape_of(shape()) == ()
    assert graphs.shape_of(AttrValue(shape={"unknown_rank": True}).shape) is None
    assert graphs.shape_of(shape(None, 7)) == (None, 7)


def test_a_recorded_shape_is_that_of_the_output():
    split = node("split", "Split", "axis", "x", _output_shapes=shapes((None, 3), (None, 4)))
    assert graphs.recorded_shape(split, 1) == (None, 4)
    assert graphs.recorded_shape(split, 2) is None
    assert graphs.recorded_shape(fed("x"), 0) is None


def test_the_outputs_of_a_node_are_those_of_its_op():
    nodes = [
        node("shape", "Shape", "x", out_type={"type": INT}),
        node("split", "Split", "axis", "x", num_split={"i": 3}),
        make_node("next", "IteratorGetNext", output_types={"list": AttrValue.ListValue(type=[FLOAT, INT])}),
        make_node("init", "NoOp"),
        make_node("variable", "VariableV2", dtype={"type": FLOAT}),
        make_node("mine", "MyOp"),
    ]
    source = with_ops(
        graph(*nodes),
        Shape=[{"name": "output", "type_attr": "out_type"}],
        Split=[{"name": "output", "type_attr": "T", "number_attr": "num_split"}],
        IteratorGetNext=[{"name": "components", "type_list_attr": "output_types"}],
        NoOp=[],
        VariableV2=[{"name": "ref", "type_attr": "dtype", "is_ref": True}],
    )
    found = [graphs.output_types(source, n) for n in nodes]
    assert found == [[INT], [FLOAT, FLOAT, FLOAT], [FLOAT, INT], [], [FLOAT], None]
    assert graphs.output_types(graph(*nodes), nodes[0]) is None


def test_an_attribute_that_was_left_out_has_the_default_of_its_op():
    source = with_ops(graph(node("shape", "Shape", "x")), Shape=[{"name": "output", "type_attr": "out_type"}])
    source.stripped_ops.op[0].attr.add(name="out_type", default_value=AttrValue(type=INT))
    assert graphs.output_types(source, source.nodes["shape"]) == [INT]


# ---- contexts


def test_all_contexts_include_those_inside_others():
    source = loop_graph()
    context = type(source.whiles[0])()
    context.CopyFrom(source.whiles[0])
    context.nested_contexts.add().cond_ctxt.CopyFrom(cond_graph().conds[0])
    context.nested_contexts.add()  # of a kind that this version does not know
    conds, whiles = graphs.all_contexts(Graph({}, whiles=(context,)))
    assert [c.context_name for c in conds] == ["cond/cond_text"]
    assert [w.context_name for w in whiles] == ["loop/while_context"]


def test_a_graph_with_other_nodes_keeps_the_rest():
    source = with_ops(cond_graph(), NoOp=[])
    new = source.with_nodes({})
    assert (new.conds, new.versions, new.stripped_ops) == (source.conds, source.versions, source.stripped_ops)
    assert variable("w", 3).name not in new.nodes
