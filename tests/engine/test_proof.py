"""What a run starts from is compared with its files, and what cannot be compared is said and stops nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import finetune.running.session
from finetune import recipe, run
from finetune.engine import proof
from finetune.engine.proof import Proof, differing, prove, unsliced
from finetune.graph import Graph, changed, constant, make_node
from finetune.learning.state import State, make_state
from finetune.surgery.source import Source, read_source, read_values
from finetune.surgery.variants import make_variants
from tests.graphs import FLOAT, INT, fed, graph, loop_graph, meta_of, node, refusal, strings, variable
from tests.reading.test_weights import save_tensors

X = np.float32([[1, 2, 3], [4, 5, 6]])
NAN = np.uint32([0x7FC00001, 0xFFC00002, 0x3F800000]).view(np.float32)  # two NaNs that differ, and 1
SUM = [fed("x", None, 3), variable("w", 3), node("w/read", "Identity", "w")]


def written(folder: Path, nodes: Graph, **values: Any) -> str:
    """A pair; `values` are what the checkpoint holds."""
    (folder / "model.meta").write_bytes(meta_of(nodes).SerializeToString())
    save_tensors(tf, folder / "model", [(name, "", value) for name, value in values.items()])
    return str(folder)


def read(folder: Path, *nodes: Any, w: Any = NAN) -> Source:
    """The source of x + w, with more nodes; the cut is `out`."""
    return read_source(written(folder, graph(*SUM, *nodes), w=w), "out", {"x": "x"}, {})


def proven(source: Source) -> Proof:
    values = read_values(source, allow_nonfinite=True)
    return prove(source, make_variants(source, False, []), values, {"x": X})


# ---- tensors


def test_a_variable_that_changes_after_it_was_loaded_stops_the_run(tmp_path: Path):
    two = [variable("v", 3), node("sum", "AddV2", "x", "w/read"), node("out", "Mul", "sum", "v")]
    source = read_source(written(tmp_path, graph(*SUM, *two), w=NAN, v=X[0]), "out", {"x": "x"}, {})
    state = make_state(read_values(source, allow_nonfinite=True), {"w": 1.0, "v": 1.0}, [], {}, recipe.Train())
    assert differing(source, state.variables()) == []
    state.live["w"].assign(NAN[[1, 0, 2]])  # NaNs still, of other bits
    error = refusal(prove, source, make_variants(source, False, []), state.variables(), {"x": X})
    assert (error.code, error.where) == ("source", source.pair.prefix)
    assert error.what == "1 of 2 tensors are identical to the checkpoint once they are loaded, w not"


def test_such_a_run_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def damaged(*words: Any) -> State:
        state = make_state(*words)
        return replace(state, frozen={name: value + 1 for name, value in state.frozen.items()})

    monkeypatch.setattr(finetune.running.session, "make_state", damaged)
    (tmp_path / "pair").mkdir()
    path = written(tmp_path / "pair", graph(*SUM, node("out", "AddV2", "x", "w/read")), w=X[0])
    error = refusal(run.run, made_recipe(path, tmp_path / "run"), "name: x\n", [])
    assert error.what.startswith("0 of 1 tensors are identical")
    assert not (tmp_path / "run").exists()


def made_recipe(path: str, folder: Path) -> recipe.Recipe:
    return recipe.Recipe(
        name="x",
        source=recipe.Source(path=path, inputs={"x": "x"}),
        cut="out",
        head=recipe.Head(classes=2),
        data=recipe.Data(kind="synthetic"),
        train=recipe.Train(steps=1, batch_size=5),
        run=recipe.Run(dir=str(folder)),
    )


def test_a_run_says_and_keeps_what_was_proven(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "pair").mkdir()
    path = written(tmp_path / "pair", graph(*SUM, node("out", "AddV2", "x", "w/read")), w=X[0])
    assert run.run(made_recipe(path, tmp_path / "run"), "name: x\n", []) == 0
    said = capsys.readouterr().out.splitlines()
    lines = [
        "proof: 1 of 1 tensors identical to the checkpoint",
        "proof: features at out:0 identical to the unsliced graph's on a probe batch of 8 examples",
    ]
    assert [line for line in said if line.startswith("proof")] == lines
    assert said.index(lines[1]) < next(i for i, line in enumerate(said) if "step      0" in line)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["proof"] == {
        "tensors": 1,
        "identical": 1,
        "features": "identical",
        "examples": 8,
        "largest_difference": 0.0,
        "why": "",
        "dropped": 0,
    }


def test_pieces_of_a_type_that_tensorflow_does_not_join_are_compared_too(tmp_path: Path):
    half = np.arange(12, dtype=np.float16).reshape(4, 3)
    rows = variable("w", 4, 3, dtype=19)
    cast = node("rows", "Cast", "w", SrcT={"type": 19}, DstT={"type": FLOAT})
    nodes = graph(fed("x", None, 4), rows, cast, node("out", "MatMul", "x", "rows"))
    (tmp_path / "model.meta").write_bytes(meta_of(nodes).SerializeToString())
    pieces = [("w", "4 3 0,1:-", half[:1]), ("w", "4 3 1,3:-", half[1:])]
    save_tensors(tf, tmp_path / "model", pieces)
    source = read_source(str(tmp_path), "out", {"x": "x"}, {})
    assert differing(source, read_values(source)) == []
    assert differing(source, {"w": half[::-1]}) == ["w"]


# ---- features


def test_features_are_compared_by_their_bits(tmp_path: Path):
    found = proven(read(tmp_path, node("out", "AddV2", "x", "w/read")))
    assert found == Proof(1, 1, "identical", 2, 0.0)


def test_what_may_not_be_imported_is_left_out_and_counted(tmp_path: Path):
    nodes = [
        node("out", "AddV2", "x", "w/read", "^lost", "^group"),
        node("lost", "NobodysOp", "x"),
        node("reader", "Relu", "lost"),
        node("second", "Relu", "reader"),
        node("group", "NoOp", "^second", "^kept"),
        node("kept", "Relu", "x"),
        node("save", "WriteFile", "name", "text"),
        strings("name", "nothing.txt"),
        strings("text", "nothing"),
        node("broken", "Relu", "not in the file"),
    ]
    source = read(tmp_path, *nodes)
    kept, _, dropped = unsliced(source, ["x:0"])
    assert source.whole.nodes.keys() - kept.nodes.keys() == {"lost", "reader", "second", "save", "broken"}
    assert list(kept.nodes["out"].input) == ["x", "w/read", "^group"]
    assert list(kept.nodes["group"].input) == ["^kept"]
    assert dropped == 5
    found = proven(source)
    assert (found.features, found.dropped) == ("identical", 5)
    without = "identical to the unsliced graph's (without 5 nodes that finetune does not import)"
    assert found.lines("out:0")[1] == f"proof: features at out:0 {without} on a probe batch of 2 examples"


def test_an_op_that_the_user_opened_is_part_of_it_where_the_cut_needs_it(tmp_path: Path):
    decode = make_node("decoded", "DecodeRaw", ["raw"], out_type={"type": FLOAT})
    nodes = [strings("raw", "abcdefghijkl"), decode, node("sum", "AddV2", "x", "w/read")]
    nodes += [node("out", "AddV2", "sum", "decoded"), make_node("off", "DecodeRaw", ["raw"], out_type={"type": FLOAT})]
    path = written(tmp_path, graph(*SUM, *nodes), w=X[0])
    found = proven(read_source(path, "out", {"x": "x"}, {}, ["DecodeRaw"]))
    assert (found.features, found.dropped) == ("identical", 1)


def test_what_gave_an_input_may_be_left_out(tmp_path: Path):
    types = {"component_types": {"list": constant_types(FLOAT)}}
    queue = [node("queue", "FIFOQueueV2"), node("batch", "QueueDequeueV2", "queue", **types)]
    nodes = graph(*queue, *SUM[1:], node("out", "AddV2", "batch", "w/read"), node("off", "Relu", "batch"))
    source = read_source(written(tmp_path, nodes, w=X[0]), "out", {"x": "batch:0"}, {})
    found = proven(source)
    assert (found.features, found.dropped) == ("identical", 1)


def constant_types(*types: int) -> Any:
    from finetune.protos import AttrValue

    return AttrValue.ListValue(type=types)


def test_a_constant_stays_in_its_loop_though_it_waits_for_what_is_left_out(tmp_path: Path):
    body = [
        node("loop/check", "Assert", "loop/Less", "loop/i"),
        constant("loop/two", 2.0, FLOAT, ["^loop/check"]),
        node("loop/twice", "Mul", "loop/x", "loop/two"),
    ]
    nodes = loop_graph(*body, product=("loop/twice", "loop/w"))
    source = read_source(written(tmp_path, nodes, w=X[0]), "out", {"x": "x"}, {})
    found = proven(source)
    assert (found.features, found.dropped, found.why) == ("identical", 1, "")


def test_features_that_differ_are_told_and_stop_nothing(tmp_path: Path):
    source = read(tmp_path, node("out", "AddV2", "x", "w/read"), w=X[0])
    variants = make_variants(source, False, [])
    nodes = dict(variants.evaluation.graph.nodes)
    nodes["out"] = changed(nodes["out"], op="Sub")
    wrong = replace(
        variants, evaluation=replace(variants.evaluation, graph=variants.evaluation.graph.with_nodes(nodes))
    )
    found = prove(source, wrong, read_values(source), {"x": X})
    assert found == Proof(1, 1, "differ", 2, 6.0, "the largest difference is 6")
    assert found.lines("out:0")[1] == (
        "warning: features at out:0 are not identical to the unsliced graph's on a probe batch of 2 examples: "
        "the largest difference is 6"
    )


def test_a_graph_that_differs_from_itself_is_random(tmp_path: Path):
    noise = node("noise", "RandomUniform", "size", T={"type": INT}, dtype={"type": FLOAT})
    nodes = [constant("size", [3], INT), noise, node("sum", "AddV2", "x", "w/read"), node("out", "Mul", "sum", "noise")]
    found = proven(read(tmp_path, *nodes, w=X[0]))
    assert (found.features, found.largest_difference) == ("random", None)
    assert found.lines("out:0")[1] == (
        "warning: features at out:0 are other ones each time (random ops: noise), the unsliced graph's too; "
        "source.dropout=false switches off dropout that is baked in"
    )


def off_the_path(*nodes: Any) -> list[Any]:
    return [node("out", "AddV2", "x", "w/read", "^off"), *nodes]


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (off_the_path(fed("labels", 7), node("off", "Relu", "labels")), "'labels'"),
        (off_the_path(node("off", "Relu", "x", "x")), "do not match 2 inputs"),  # TensorFlow refuses to import it
        (off_the_path(variable("other", 3), node("off", "Identity", "other")), "uninitialized"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(tmp_path: Path, nodes: list[Any], says: str):
    found = proven(read(tmp_path, *nodes))
    assert (found.features, found.identical, found.largest_difference) == ("not compared", 1, None)
    assert says in found.why
    (_, line) = found.lines("out:0")
    assert line == f"proof: features at out:0 not compared with the unsliced graph's: {found.why}"
    assert "\n" not in line
    assert len(line) < 250


def test_other_variables_that_run_have_the_checkpoints_values(tmp_path: Path):
    nodes = [variable("other", 3), node("off", "CheckNumerics", "other", message={"s": b"x"})]
    path = written(tmp_path, graph(*SUM, *off_the_path(*nodes)), w=X[0], other=X[1])
    assert proven(read_source(path, "out", {"x": "x"}, {})).features == "identical"


@pytest.mark.parametrize("limit", ["MOST_NODES", "MOST_BYTES"])
def test_a_large_graph_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str):
    source = read(tmp_path, node("out", "AddV2", "x", "w/read"))
    monkeypatch.setattr(proof, limit, 3)
    found = proven(source)
    assert (found.features, found.why, found.identical) == ("not compared", "too large, 4 nodes of 0 MB", 1)


def test_the_optimiser_is_as_it_was(tmp_path: Path):
    before = tf.config.optimizer.get_experimental_options()
    proven(read(tmp_path, node("out", "AddV2", "x", "w/read")))
    assert tf.config.optimizer.get_experimental_options() == before
