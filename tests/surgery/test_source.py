"""A pair is settled with its checkpoint before anything runs: nothing is ever half loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from finetune.surgery.source import of_piece, read_source
from tests.graphs import INT, every_golden, fed, golden, graph, meta_of, node, refusal, strings, variable


def pair(folder: Path, *nodes) -> str:
    """`out` is made of x and the given variables; beside it lie weights: `embedding` [21, 4], `sentence/bias` [5]."""
    variables = [n.name for n in nodes if n.op == "VariableV2"]
    inputs = [] if any(n.name == "x" for n in nodes) else [fed("x", None, 4)]
    source = graph(*inputs, *nodes, node("out", "AddN", "x", *variables))
    (folder / "model.meta").write_bytes(meta_of(source).SerializeToString())
    for path in golden("embedding").folder.glob("model.[!m]*"):
        shutil.copy(path, folder)
    return str(folder)


# ---- what is found


@every_golden
def test_a_golden_is_read_and_settled(name):
    about = golden(name)
    source = read_source(str(about.folder), about.cut, about.inputs, about.feeds["eval"])
    assert source.cut == about.cut
    assert source.inputs == about.inputs
    assert {v.name: v.key for v in source.variables} == about.keys
    assert source.shapes.keys() == about.keys.keys()
    assert all(isinstance(shape, tuple) for shape in source.shapes.values())
    assert set(source.below.nodes) < set(source.whole.nodes)
    assert source.unused_keys >= 0


def test_names_may_go_without_their_output():
    about = golden("conv_ref")
    source = read_source(str(about.folder), "fc7", {"images": "images"}, {"keep_prob": 1.0})
    assert (source.cut, source.inputs, source.feeds) == ("fc7:0", {"images": "images:0"}, {"keep_prob:0": 1.0})


def test_pieces_of_a_partitioned_variable_have_their_own_shapes():
    about = golden("embedding")
    source = read_source(str(about.folder), about.cut, {}, {})
    shapes = [shape for name, shape in source.shapes.items() if name.startswith("embedding/part")]
    assert sum(rows for rows, _ in shapes) == 21
    assert {key for key, _ in source.pieces().values()} == {"embedding"}


def test_inputs_have_a_dtype_and_a_shape():
    about = golden("embedding")
    source = read_source(str(about.folder), about.cut, {}, {})
    ((dtype, shape),) = source.input_kinds().values()
    assert (dtype, len(shape), shape[0]) == (INT, 2, None)
    assert source.batch_size is None


def test_a_batch_size_may_be_baked_in(tmp_path):
    folder = pair(tmp_path, fed("x", 7, 4), variable("sentence/bias", 5))
    assert read_source(folder, "out", {}, {}).batch_size == 7


# ---- what is refused


def test_a_cut_that_is_not_there_names_the_key():
    error = refusal(read_source, str(golden("conv_ref").folder), "fc_7", {}, {})
    assert error.where == "cut"
    assert error.todo.startswith("did you mean fc7:0 or ")


def test_an_input_or_a_feed_that_is_not_there_names_its_key():
    folder = str(golden("conv_ref").folder)
    assert refusal(read_source, folder, "fc7", {"x": "image"}, {}).where == "source.inputs.x"
    error = refusal(read_source, folder, "fc7", {}, {"keep_probs": 1.0})
    assert error.where == "source.feeds.keep_probs"
    assert error.todo.startswith("did you mean keep_prob:0")


def test_a_cut_without_variables_is_refused():
    error = refusal(read_source, str(golden("conv_ref").folder), "images", {}, {})
    assert error.what == "there is no variable below the cut"


def test_a_variable_that_the_checkpoint_lacks_is_named_with_the_nearest_key(tmp_path):
    error = refusal(read_source, pair(tmp_path, variable("sentence/biases", 5, 5)), "out", {}, {})
    assert (error.where, error.status) == (str(tmp_path / "model"), 3)
    assert error.what == "the checkpoint lacks sentence/biases: 1 of 1 variables below the cut"
    assert error.todo.startswith("did you mean sentence/bias")


def test_another_models_checkpoint_is_suspected(tmp_path):
    error = refusal(read_source, pair(tmp_path, variable("qqq", 5), variable("zzz", 5)), "out", {}, {})
    assert error.what == "the checkpoint lacks qqq, zzz: 2 of 2 variables below the cut"
    assert error.todo == "is this the checkpoint of this graph?"


@pytest.mark.parametrize(("sizes", "shown"), [((6,), "6"), ((5, 1), "5×1"), ((None, 5), "?×5"), ((), "a scalar")])
def test_another_shape_is_refused_with_both(tmp_path, sizes, shown):
    error = refusal(read_source, pair(tmp_path, variable("sentence/bias", *sizes)), "out", {}, {})
    assert error.what == f"variable 'sentence/bias' is {shown} in the graph, 5 in the checkpoint"
    assert error.todo == "are .meta and checkpoint of the same model?"


def test_a_shape_that_the_graph_leaves_open_fits(tmp_path):
    open_ = variable("sentence/bias", None)
    assert read_source(pair(tmp_path, open_), "out", {}, {}).shapes == {"sentence/bias": (5,)}
    open_.attr["shape"].shape.unknown_rank = True
    open_.attr["shape"].shape.dim.pop()
    assert read_source(pair(tmp_path, open_), "out", {}, {}).shapes == {"sentence/bias": (5,)}


def test_another_dtype_is_refused_with_both(tmp_path):
    error = refusal(read_source, pair(tmp_path, variable("sentence/bias", 5, dtype=INT)), "out", {}, {})
    assert error.what == "variable 'sentence/bias' is int32 in the graph, float in the checkpoint"


@pytest.mark.parametrize("piece", ["30 4 0,10:-", "21 0,10", "21 4 2 0,10:-:-"])
def test_a_piece_of_something_else_is_refused(tmp_path, piece):
    part = variable("part_0", 10, 4)
    saver = [strings("save/names", "embedding"), strings("save/specs", piece)]
    saver.append(node("save/SaveV2", "SaveV2", "prefix", "save/names", "save/specs", "part_0"))
    error = refusal(read_source, pair(tmp_path, part, *saver), "out", {}, {})
    whole = piece.rpartition(" ")[0].replace(" ", "×")
    assert error.what == f"variable 'part_0' is a piece of {whole} in the graph, 21×4 in the checkpoint, as 'embedding'"


def test_a_part_of_the_checkpoint_that_is_cut_short_is_named(tmp_path):
    folder = pair(tmp_path, variable("sentence/bias", 5))
    (data,) = tmp_path.glob("model.data-*")
    data.write_bytes(data.read_bytes()[:100])
    assert refusal(read_source, folder, "out", {}, {}).where == str(data)


# ---- values of pieces


def test_a_piece_is_cut_out_of_the_whole():
    whole = np.arange(12).reshape(4, 3)
    assert np.array_equal(of_piece(whole, "4 3 1,2:-"), whole[1:3])
    assert of_piece(whole, "") is whole
