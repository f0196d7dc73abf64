"""Which constants stand for a batch size; tests/conformance/test_sizes.py shows that features stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune.graph import constant, make_node
from finetune.surgery.cut import cut
from finetune.surgery.sizes import baked_batch, with_free_batch, with_image_size
from finetune.surgery.specialize import dtype_and_shape
from tests.graphs import FLOAT, INT, every_golden, fed, golden, graph, node, shapes

BATCH = 4


def freed(*nodes: Any, at: str = "out:0") -> Any:
    return with_free_batch(graph(fed("x", BATCH, 3), *nodes), [at], ["x:0"], [], BATCH)


def size_of(source: Any, tensor: str) -> list[int]:
    return [d.size for d in dtype_and_shape(source, tensor)[1].dim]


def test_inputs_are_opened_and_the_graph_that_was_given_stays_as_it_was():
    before = graph(fed("x", BATCH, 3), node("out", "Relu", "x"))
    after = with_free_batch(before, ["out:0"], ["x:0"], [], BATCH)
    assert (size_of(before, "x:0"), size_of(after, "x:0")) == ([BATCH, 3], [-1, 3])


@pytest.mark.parametrize(
    ("value", "op"),
    [([BATCH, 7], "ConcatV2"), ([7, BATCH], "ConcatV2"), ([BATCH], "Identity"), (BATCH, "Squeeze"), ([-1, 7], "Const")],
)
def test_a_constant_among_sizes_takes_the_place_of_the_batch(value, op):
    reader = node("out", "Reshape", "x", "sizes") if np.ndim(value) else make_node("out", "Range", ["x", "sizes", "x"])
    found = freed(constant("sizes", np.array(value, np.int32)), reader)
    assert found.nodes["sizes"].op == op


def test_sizes_that_are_joined_first_are_found():
    parts = [constant("batch", [BATCH], INT), constant("units", [BATCH], INT), constant("axis", 0)]
    joined = make_node("joined", "ConcatV2", ["batch", "units", "axis"], N={"i": 2}, T={"type": INT})
    found = freed(*parts, joined, constant("zero", 0.0, FLOAT), node("out", "Fill", "joined", "zero"))
    assert {found.nodes[name].op for name in ("batch", "units")} == {"Identity"}
    assert found.nodes["axis"].op == "Const"


def test_equal_rows_are_as_many_as_examples_and_others_stay():
    equal, other = np.ones([BATCH, 2], np.float32), np.arange(2.0 * BATCH, dtype=np.float32).reshape(BATCH, 2)
    both = [constant("equal", equal), constant("other", other), node("out", "Mul", "equal", "other")]
    found = freed(*both)
    assert (found.nodes["equal"].op, found.nodes["other"].op) == ("BroadcastTo", "Const")


def test_a_vector_for_each_channel_is_no_batch():
    found = freed(constant("bias", np.zeros(BATCH, np.float32)), node("out", "BiasAdd", "x", "bias"))
    assert found.nodes["bias"].op == "Const"


def test_what_stands_off_the_way_to_the_cut_stays():
    found = freed(constant("sizes", [BATCH, 3]), node("off", "Reshape", "x", "sizes"), node("out", "Relu", "x"))
    assert found.nodes["sizes"].op == "Const"


def test_the_elements_of_a_tensor_array_are_rows():
    element = fed("element", BATCH, 2).attr["shape"]
    array = make_node("array", "TensorArrayV3", ["x"], element_shape={"shape": element.shape})
    found = freed(array, node("out", "Relu", "array"))
    assert found.nodes["array"].attr["element_shape"].shape.dim[0].size == -1


# ---- which size is baked in


def test_the_cut_tells_where_inputs_do_not():
    source = graph(fed("x", None, 3), node("out", "Relu", "x", _output_shapes=shapes([BATCH, 3])))
    assert baked_batch(source, "out:0", [(None, 3)]) == BATCH
    assert baked_batch(source, "out:0", [(7, 3)]) == 7


def test_the_zeros_that_a_loop_starts_from_tell_too_joined_from_constants():
    parts = [constant("batch", [BATCH]), constant("units", [9]), constant("axis", 0), constant("zero", 0.0, FLOAT)]
    joined = make_node("joined", "ConcatV2", ["batch", "units", "axis"], N={"i": 2}, T={"type": INT})
    state = [joined, node("state", "Fill", "joined", "zero"), node("out", "Enter", "state")]
    source = graph(fed("x", None, 3), *parts, *state)
    assert baked_batch(cut(source, ["out:0"]), "out:0", [(None, 3)]) == BATCH


@every_golden
def test_goldens_take_any_number_of_examples(name):
    about = golden(name)
    below = cut(about.graph, [about.cut], about.inputs.values())
    assert baked_batch(below, about.cut, []) is None


def test_another_image_size_forgets_what_was_recorded_of_the_cut():
    images = fed("x", None, 28, 28, 3)
    source = graph(images, node("out", "Relu", "x", _output_shapes=shapes([None, 28, 28, 3])))
    found = with_image_size(source, ["out:0"], "x:0", [40, 32])
    assert size_of(found, "x:0") == [-1, 40, 32, 3]
    assert "_output_shapes" not in found.nodes["out"].attr
    assert size_of(source, "x:0") == [-1, 28, 28, 3]
