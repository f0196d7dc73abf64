from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.examples.data import Examples
from finetune.examples.synthetic import synthetic
from finetune.graph import Graph, constant, make_node
from finetune.protos import TensorShapeProto
from finetune.reading.settle import Settled
from finetune.reading.tables import Table
from finetune.reading.variables import placeholder
from finetune.recipe import Head
from finetune.surgery.source import Source

FLOAT, INT, STRING, INT64 = 1, 3, 7, 9


def shape(*sizes: int) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=n) for n in sizes])


def source(*nodes, inputs: dict[str, str], tables: tuple[Table, ...] = (), **shapes: tuple[int, ...]) -> Source:
    """A source of a few nodes, as far as synthetic data looks at it."""
    graph = Graph({node.name: node for node in nodes})
    start = Settled({}, shapes, frozenset(), {})
    parts = {"cut": "", "inputs": inputs, "feeds": {}, "variables": (), "above": (), "updates": (), "tables": tables}
    return Source(None, {}, None, graph, graph, start=start, unused_keys=0, bypassed=(), batch_size=None, **parts)  # type: ignore[arg-type]


def examples(found: Source, seed: int = 0, **words: Any) -> Examples:
    return synthetic(found, {"head": Head(**{"classes": 3, **words})}, {"head": "labels"}, seed)


def made(found: Source, field: str = "x") -> np.ndarray:
    return (examples(found).arrays or {})[field]


def test_rows_have_the_shape_and_dtype_of_the_input():
    array = made(source(placeholder("x", FLOAT, shape(-1, 4, -1, 3)), inputs={"x": "x:0"}))
    assert (array.dtype, array.shape) == (np.float32, (64, 4, 8, 3))


def test_rows_are_those_of_their_seed():
    found = source(placeholder("x", FLOAT, shape(-1, 3)), inputs={"x": "x:0"})
    first, again, other = (examples(found, seed).digest() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("reader", "weights", "expected"),
    [
        (make_node("y", "MatMul", ["x", "w"]), (5, 7), (64, 5)),
        (make_node("y", "MatMul", ["x", "w"], transpose_b={"b": True}), (5, 7), (64, 7)),
        (make_node("y", "Conv2D", ["x", "w"]), (3, 3, 2, 8), (64, 32, 32, 2)),
    ],
)
def test_an_input_without_a_shape_gets_the_one_that_its_reader_asks_for(reader, weights, expected):
    nodes = [placeholder("x", FLOAT), make_node("w", "VariableV2"), reader]
    assert made(source(*nodes, inputs={"x": "x:0"}, w=weights)).shape == expected


def test_a_reshape_tells_the_shape_too():
    nodes = [placeholder("x", FLOAT), constant("to", np.array([-1, 28, 28, 1], np.int32))]
    nodes.append(make_node("y", "Reshape", ["x", "to"]))
    assert made(source(*nodes, inputs={"x": "x:0"})).shape == (64, 28, 28, 1)


def test_ids_stay_within_the_embedding():
    nodes = [placeholder("x", INT, shape(-1, 6)), make_node("w", "VariableV2"), make_node("y", "Gather", ["w", "x"])]
    array = made(source(*nodes, inputs={"x": "x:0"}, w=(3, 16)))
    assert set(np.unique(array)) == {0, 1, 2}


def test_other_integers_may_be_lengths():
    array = made(source(placeholder("x", INT, shape(-1)), inputs={"x": "x:0"}))
    assert array.min() >= 1


@pytest.mark.parametrize(
    ("dtype", "keys"), [(STRING, np.array([b"red", b"blue"], object)), (INT64, np.array([40, 70], np.int64))]
)
def test_what_is_looked_up_in_a_table_is_drawn_from_its_keys(dtype: int, keys: np.ndarray):
    nodes = [placeholder("x", dtype, shape(-1)), make_node("table", "HashTableV2"), constant("none", np.int64(-1))]
    nodes.append(constant("axis", np.int32(1)))
    nodes.append(make_node("columns", "ExpandDims", ["x", "axis"]))
    nodes.append(make_node("ids", "LookupTableFindV2", ["table", "columns", "none"]))
    table = Table("table", "fill", keys, np.arange(2))
    array = made(source(*nodes, inputs={"x": "x:0"}, tables=(table,)))
    assert (array.shape, set(array)) == ((64,), set(keys))


def test_other_text_is_digits():
    array = made(source(placeholder("x", STRING, shape(-1)), inputs={"x": "x:0"}))
    assert all(text.isdigit() for text in array)


def test_a_number_of_classes_is_needed():
    with pytest.raises(UserError, match="not given, and synthetic data has no classes of its own"):
        examples(source(inputs={}), 0, classes=None)


def test_each_kind_of_loss_gets_what_it_learns():
    found = source(placeholder("x", FLOAT, shape(-1, 3)), inputs={"x": "x:0"})
    hot = examples(found, loss="sigmoid").columns["labels"]
    assert (hot.shape, set(hot.ravel().tolist())) == ((64, 3), {0, 1})
    numbers = examples(found, loss="squared", classes=None).columns["labels"]
    assert (numbers.shape, numbers.dtype) == ((64, 1), np.float32)
