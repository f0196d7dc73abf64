"""Weights in the file of the graph itself: where they may lie, and what is said where they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.graph import constant, make_node
from finetune.inspecting.inspect import inspect
from finetune.reading import constants, metagraph
from finetune.reading.weights import check_data, read_index, read_tensors
from finetune.surgery.source import read_source, read_values
from tests.graphs import FLOAT, fed, graph, meta_of, node, refusal, strings, variable

KERNEL = np.arange(8, dtype=np.float32).reshape(4, 2)


def assigned(name: str, value: str, op: str = "Assign", assign: str = "Assign"):
    return make_node(f"{name}/{assign}", op, [name, value], T={"type": FLOAT})


def alone(folder: Path, *beside, variables=("w",)) -> str:
    """A `.meta` without a checkpoint: `out` is x times w plus b."""
    layer = [node("mul", "MatMul", "x", "w"), node("out", "BiasAdd", "mul", "b")]
    source = graph(fed("x", None, 4), variable("w", 4, 2), variable("b", 2, resource=True), *layer, *beside)
    source.nodes["b"].attr["shared_name"].s = b"another"
    (folder / "m.meta").write_bytes(meta_of(source, variables).SerializeToString())
    return str(folder / "m.meta")


def given(name: str = "w") -> list:
    return [constant(f"{name}/value", KERNEL if name == "w" else KERNEL[0], FLOAT)]


def test_the_constants_that_variables_start_from_are_the_weights(tmp_path):
    passed = node("w/initial", "Identity", "w/value")
    both = [*given("w"), *given("b"), passed, assigned("w", "w/initial"), assigned("b", "b/value", "AssignVariableOp")]
    source = read_source(alone(tmp_path, *both), "out", {}, {})
    assert source.pair.is_one_file
    assert source.shapes == {"w": (4, 2), "b": (2,)}
    values = read_values(source)
    assert np.array_equal(values["w"], KERNEL)
    assert np.array_equal(values["b"], KERNEL[0])
    assert {v.status for v in inspect(str(tmp_path)).variables} == {"found"}


def test_a_saver_that_would_have_used_other_names_does_not_matter(tmp_path):
    both = [*given("w"), *given("b"), assigned("w", "w/value"), assigned("b", "b/value", "AssignVariableOp")]
    saver = [strings("save/names", "kernel"), strings("save/specs", "")]
    saver.append(node("save/SaveV2", "SaveV2", "prefix", "save/names", "save/specs", "w"))
    source = read_source(alone(tmp_path, *both, *saver), "out", {}, {})
    assert {v.name: v.key for v in source.variables} == {"w": "w", "b": "b"}


@pytest.mark.parametrize(
    "beside",
    [
        [],
        [*given("b"), assigned("b", "b/value", "AssignVariableOp", assign="Assign_1")],  # not its initialiser
        [*given("b"), assigned("b", "b/random", "AssignVariableOp"), node("b/random", "RandomUniform", "b/value")],
        [*given("b"), assigned("b", "b/value", "AssignAddVariableOp")],
    ],
)
def test_a_variable_without_a_constant_is_named_with_the_missing_index(tmp_path, beside):
    path = alone(tmp_path, *given("w"), assigned("w", "w/value"), *beside)
    error = refusal(read_source, path, "out", {}, {})
    index = tmp_path / "m.index"
    assert (error.where, error.status) == (path, 3)
    assert error.what == f"{index} is missing, and no constant is the initial value of b"
    assert error.todo.startswith("copy the whole pair")


def test_a_graph_without_any_weights_is_no_pair_to_inspect(tmp_path):
    error = refusal(inspect, alone(tmp_path))
    assert error.what == f"{tmp_path / 'm.index'} is missing, and no constant is the initial value of w, b"


def frozen_pb(folder: Path, *nodes) -> str:
    source = graph(fed("x", None, 4), *nodes, node("out", "MatMul", "x", "w"))
    (folder / "m.pb").write_bytes(meta_of(source).graph_def.SerializeToString())
    return str(folder / "m.pb")


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_a_frozen_graph_answers_as_a_checkpoint_does(tmp_path, kind):
    path = frozen_pb(tmp_path, constant("w", KERNEL.astype(kind)), constant("axes", [1, 2]))
    entries = read_index(path)
    assert {name: entry.shape for name, entry in entries.items()} == {"w": (4, 2)}
    check_data(path, entries, entries)
    found = read_tensors(path, ["w"])["w"]
    assert found.dtype == kind
    assert np.array_equal(found, KERNEL)
    assert [f.name for f in read_source(path, "out", {}, {}).pair.files] == ["m.pb"]


def test_a_value_that_stands_for_many_is_unfolded(tmp_path):
    weight = constant("w", np.zeros([4, 2]), FLOAT)
    weight.attr["value"].tensor.tensor_content = b""
    weight.attr["value"].tensor.float_val.append(0.5)
    assert np.array_equal(read_tensors(frozen_pb(tmp_path, weight), ["w"])["w"], np.full([4, 2], 0.5))


def test_a_constant_that_unfolds_to_more_than_memory_holds_is_refused(tmp_path):
    weight = constant("w", np.zeros([4, 2]), FLOAT)
    weight.attr["value"].tensor.tensor_content = b""
    weight.attr["value"].tensor.float_val.append(0.5)
    weight.attr["value"].tensor.tensor_shape.dim[0].size = 2**29
    path = frozen_pb(tmp_path, weight)
    assert "values that the file does not hold" in refusal(read_index, path).what


def test_a_constant_that_is_cut_short_is_refused(tmp_path):
    weight = constant("w", KERNEL)
    weight.attr["value"].tensor.tensor_content = b"1234"
    assert "4 bytes for the shape 4×2" in refusal(read_source, frozen_pb(tmp_path, weight), "out", {}, {}).what


def test_a_graph_that_is_not_frozen_says_so(tmp_path):
    error = refusal(read_source, frozen_pb(tmp_path, variable("w", 4, 2)), "out", {}, {})
    assert error.what == "no constant has the values of w, so this is no frozen graph"


def test_a_saved_model_without_its_variables_says_so(tmp_path):
    Path(frozen_pb(tmp_path, variable("w", 4, 2))).unlink()
    saved = metagraph.SavedModel(saved_model_schema_version=1)
    source = graph(fed("x", None, 4), variable("w", 4, 2), node("out", "MatMul", "x", "w"))
    saved.meta_graphs.add().CopyFrom(meta_of(source, ["w"]))
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    error = refusal(read_source, str(tmp_path), "out", {}, {})
    assert error.what == f"{tmp_path}/variables/variables.index is missing, and no constant has the values of w"
    assert error.todo == "copy the whole folder of the SavedModel"


def test_a_checkpoint_may_be_called_like_a_graph(tmp_path):
    (tmp_path / "m.pb").write_bytes(b"x")
    assert constants.lie_in(str(tmp_path / "m.pb"))
    assert not constants.lie_in(str(tmp_path / "m"))
    assert not constants.lie_in(str(tmp_path / "n.pb"))
