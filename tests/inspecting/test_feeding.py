"""What is proposed to be fed to a cut, and what trust would refuse of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune.graph import constant, make_node
from finetune.inspecting.feeding import BATCH_SIZE, Feed, Feeding, data_sources, propose
from finetune.inspecting.flow import flow_of
from tests.graphs import BOOL, FLOAT, INT, INT64, STRING, fed, graph, loop_graph, node, shapes, strings, variable


def proposed(*nodes: Any, at: str = "out:0") -> Feeding:
    source = graph(*nodes)
    sources = data_sources(source)
    names = [n.name for n in nodes if n.op == "VariableV2"]
    return propose(source, flow_of(source, names, sources), at)


def dense(source: str, **attrs: Any) -> list[Any]:
    return [variable("w", 4, 5), node("out", "MatMul", source, "w", **attrs)]


def iterator(*kinds: int) -> list[Any]:
    """An iterator that gives a vector of each dtype."""
    get = make_node("next", "IteratorGetNext", ["iterator"], _output_shapes=shapes(*[[None]] * len(kinds)))
    get.attr["output_types"].list.type.extend(kinds)
    return [make_node("iterator", "IteratorV2"), get]


def names(found: Feeding) -> list[str]:
    return [tensor.tensor for tensor in found.inputs]


def values(found: Feeding) -> dict[str, Any]:
    return {feed.tensor: feed.eval for feed in found.feeds}


# ---- where data goes in


def test_columns_of_an_iterator_are_in_the_order_of_their_numbers():
    columns = [node(f"c{i}", "ExpandDims", f"next:{i}") for i in range(11)]
    both = node("x", "ConcatV2", *(c.name for c in columns))
    found = proposed(*iterator(*[FLOAT] * 11), *columns, both, *dense("x"))
    assert names(found) == [f"next:{i}" for i in range(11)]
    assert found.refused == ()


def lookup(*contents: Any) -> list[Any]:
    return [
        *iterator(STRING),
        make_node("table", "HashTableV2"),
        *contents,
        make_node("fill", "InitializeTableV2", ["table", "keys", "ids"]),
        constant("none", np.int64(-1)),
        node("looked_up", "LookupTableFindV2", "table", "next", "none", _output_shapes=shapes([None])),
        node("x", "OneHot", "looked_up", _output_shapes=shapes([None, 4])),
        *dense("x"),
    ]


def test_text_that_a_table_of_the_graph_reads_is_an_input():
    found = proposed(*lookup(strings("keys", "a", "b"), constant("ids", np.array([0, 1]), INT64)))
    assert (names(found), found.refused) == (["next:0"], ())
    assert found.inputs[0].dtype == "string"


def test_behind_a_table_that_is_filled_from_a_file_numbers_are_the_input():
    read = [make_node("keys", "ReadFile"), constant("ids", np.array([0, 1]), INT64)]
    found = proposed(*lookup(*read))
    assert (names(found), found.refused) == (["x:0"], ())


@pytest.mark.parametrize("op", ["DecodeJpeg", "PyFunc", "MyOp"])
def test_behind_an_op_that_is_refused_numbers_are_the_input(op: str):
    decoded = node("decoded", op, "text", _output_shapes=shapes([None, 4]))
    found = proposed(fed("text", None, dtype=STRING), decoded, *dense("decoded"))
    assert (names(found), found.refused) == (["decoded:0"], ())


def test_an_op_that_no_input_avoids_is_told():
    nodes = [fed("x", None, 4), variable("v", 4, 4), node("a", "MatMul", "x", "v"), node("b", "MyOp", "a"), *dense("b")]
    found = proposed(*nodes)
    (refused,) = found.refused
    assert (refused.node, refused.op, refused.why) == ("b", "MyOp", "is not an op that finetune knows")
    assert names(found) == ["x:0"]


def test_what_is_printed_on_the_way_is_passed_over():
    found = proposed(fed("x", None, 4), node("printed", "Print", "x", "x"), *dense("printed"))
    assert found.refused == ()


# ---- feeds


def test_a_scalar_gets_a_guess_that_is_told_as_one():
    found = proposed(fed("x", None, 4), fed("scale"), node("y", "Mul", "x", "scale"), *dense("y"))
    assert found.feeds == (Feed("scale:0", "float32", 1.0, 1.0, guessed=True),)


def test_what_only_scales_features_is_no_data():
    unknown = make_node("scale", "Placeholder", dtype={"type": FLOAT})
    found = proposed(
        fed("x", None, 4), unknown, variable("w", 4, 5), node("y", "MatMul", "x", "w"), node("out", "Mul", "y", "scale")
    )
    assert (names(found), values(found)) == (["x:0"], {"scale:0": 1.0})


def test_a_switch_without_a_shape_is_no_data():
    switch = make_node("flag", "Placeholder", dtype={"type": BOOL})
    found = proposed(fed("x", None, 4), switch, node("y", "Select", "flag", "x", "x"), *dense("y"))
    assert (names(found), values(found)) == (["x:0"], {"flag:0": False})


def test_a_number_of_bits_is_not_one():
    nodes = [constant("two", 2.0, FLOAT), node("levels", "Pow", "two", "bits"), node("y", "Mul", "x", "levels")]
    assert values(proposed(fed("x", None, 4), fed("bits"), *nodes, *dense("y"))) == {"bits:0": 8.0}


def zeros(count: str) -> list[Any]:
    """A state of zeros for `count` examples, put beside the data."""
    whole = {"T": {"type": INT}}
    return [
        constant("width", 4, INT),
        node("sizes", "Pack", count, "width", **whole),
        constant("zero", 0.0, FLOAT),
        node("state", "Fill", "sizes", "zero"),
        node("y", "AddV2", "x", "state"),
    ]


@pytest.mark.parametrize("name", ["batch_size", "n"])
def test_the_number_of_examples_is_that_of_the_batch(name: str):
    count = fed(name, dtype=INT)
    assert values(proposed(fed("x", None, 4), count, *zeros(name), *dense("y"))) == {f"{name}:0": BATCH_SIZE}
    assert values(proposed(fed("x", 7, 4), count, *zeros(name), *dense("y"))) == {f"{name}:0": 7}


# ---- the batch size


def test_the_batch_size_may_stand_in_the_input():
    assert proposed(fed("x", 6, 4), *dense("x")).batch_size == 6
    assert proposed(fed("x", None, 4), *dense("x")).batch_size is None


def test_the_batch_size_may_stand_at_the_cut_only():
    assert proposed(fed("x", None, 4), *dense("x", _output_shapes=shapes([6, 5]))).batch_size == 6


def test_the_batch_size_may_stand_in_a_state_only():
    state = node("state", "Fill", "sizes", "zero", _output_shapes=shapes([6, 4]))
    start = [constant("sizes", np.array([6, 4]), INT), constant("zero", 0.0, FLOAT), state]
    enter = node("enter", "Enter", "state", frame_name={"s": b"loop"})
    found = proposed(fed("x", None, 4), *start, enter, node("y", "AddV2", "x", "enter"), *dense("y"))
    assert found.batch_size == 6


def test_where_data_goes_straight_into_a_loop_the_examples_before_it_are_the_input():
    loop = loop_graph()
    decoded = [fed("wav", dtype=STRING), node("decoded", "DecodeWav", "wav"), constant("perm", [1, 0, 2])]
    rows = [constant("to", [-1, 25, 4]), node("rows", "Reshape", "decoded", "to")]
    steps = node("x", "Transpose", "rows", "perm")
    source = loop.with_nodes({**loop.nodes, **{n.name: n for n in (*decoded, *rows, steps)}})
    found = propose(source, flow_of(source, ["w"], data_sources(source)), "out:0")
    assert [(t.tensor, t.shape) for t in found.inputs] == [("rows:0", (None, 25, 4))]
    assert found.refused == ()


def test_where_a_sparse_tensor_is_fed_the_dense_one_behind_it_is_the_input():
    parts = [fed("ids/indices", None, 2, dtype=INT64), fed("ids/values", None, dtype=INT64), fed("other", None, 4)]
    looked_up = [variable("table", 9, 4), node("rows", "GatherV2", "table", "ids/values", "axis"), constant("axis", 0)]
    mean = node("mean", "SparseSegmentMean", "rows", "ids/values", "ids/indices", _output_shapes=shapes([None, 4]))
    found = proposed(*parts, *looked_up, mean, node("both", "AddV2", "mean", "other"), *dense("both"))
    assert names(found) == ["other:0", "mean:0"]
