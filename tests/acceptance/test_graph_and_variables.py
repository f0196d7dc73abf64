"""What is promised about a source's graph and its variables: each case works, or ends in an error that says why."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.__main__ import main
from finetune.engine import heads
from finetune.engine.compile import as_function, features_program
from finetune.errors import UserError
from finetune.graph import Graph, changed, constant, make_node
from finetune.protos import GraphDef
from finetune.reading import metagraph
from finetune.reading.settle import Wishes
from finetune.results import checkpoints
from finetune.surgery import doubts
from finetune.surgery.backbone import make_backbone
from finetune.surgery.source import Source, read_source, read_values
from finetune.surgery.variants import make_variants
from tests.conformance.goldens import GOLDENS, features_of, source_of
from tests.graphs import BOOL, FLOAT, INT, fed, graph, loop_graph, meta_of, node, refusal, variable

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def dense(*more: Any, name: str = "dense/w") -> Graph:
    """`out` is relu(x @ w); more nodes may stand beside it."""
    return graph(
        fed("x", None, 3), variable(name, 3, 2), node("out_0", "MatMul", "x", name), *more, relu("out", "out_0")
    )


def relu(name: str, *inputs: str, **attrs: Any) -> Any:
    return node(name, "Relu", *inputs, **attrs)


def save(folder: Path, source: Any, values: Mapping[str, Any] | None = None) -> str:
    """A pair of a graph, or of a whole `MetaGraphDef`, and of values."""
    meta = meta_of(source) if isinstance(source, Graph) else source
    folder.mkdir(exist_ok=True)
    (folder / "model.meta").write_bytes(meta.SerializeToString())
    checkpoints.write(folder, "model", values or {"dense/w": np.ones((3, 2), np.float32)}, {})
    return str(folder)


def read(folder: Path, source: Any, values: Mapping[str, Any] | None = None, **words: Any) -> Source:
    return read_source(save(folder, source, values), "out", {}, {}, **words)


def features(source: Source, batch: np.ndarray = X) -> np.ndarray:
    """What the source gives at the cut, as the engine computes it."""
    backbone = make_backbone(source.whole, [source.cut], source.inputs, source.feeds)
    values = {f"variable/{name}": value for name, value in read_values(source).items()}
    return as_function(features_program(backbone))({**values, "input/x": batch})["features"].numpy()


def refused(*given: Any, **words: Any) -> UserError:
    error = refusal(read, *given, **words)
    assert error.status == 3
    return error


# ---- 27 to 31: graphs that TensorFlow would refuse, or would take for another


def ending(source: Graph, out: Any, *more: Any) -> Graph:
    """The graph with another node for `out`."""
    return source.with_nodes({**source.nodes, **{n.name: n for n in more}, "out": out})


def test_27_ops_that_tensorflow_has_not_are_all_named_with_a_node_and_with_what_they_need(tmp_path):
    ops = ["Resampler", "BilateralSlice", "Correlation", "Warp", "Pack3", "Fold9"]
    nodes = [make_node(f"layer/{op}", op, ["out_0"]) for op in ops]
    said = str(refused(tmp_path, ending(dense(), node("out", "AddN", *(n.name for n in nodes)), *nodes)))
    assert [op for op in ops if op not in said] == []
    assert "is not an op that finetune knows: it needs tf.contrib or a library of its author's" in said
    assert "error[source] layer/" in said


def test_28_an_op_that_tensorflow_has_not_does_no_harm_outside_the_cut(tmp_path, capfd):
    source = read(tmp_path, dense(make_node("debug", "NoSuchOp", ["out_0"])))
    capfd.readouterr()
    assert features(source).tolist() == [[3.0, 3.0], [12.0, 12.0]]
    assert capfd.readouterr() == ("", "")


def with_ops(source: Graph) -> tuple[Graph, Any]:
    """The graph with room for the definitions of its writer's ops."""
    ops = meta_of(source).meta_info_def.stripped_op_list
    return replace(source, stripped_ops=ops), ops


def with_attribute(default: bool | None) -> Graph:
    """A `Relu` whose attribute `reversed` no TensorFlow knows; the writer's default for it, if the file says one."""
    source, ops = with_ops(ending(dense(), relu("out", "out_0", reversed={"b": True})))
    if default is not None:
        op = ops.op.add(name="Relu", output_arg=[{"type_attr": "T"}])
        op.attr.add(name="reversed", type="bool").default_value.b = default
    return source


@pytest.mark.parametrize("default", [None, False])
def test_29_an_attribute_that_tensorflow_has_not_is_never_dropped_in_silence(tmp_path, default):
    error = refusal(features, read(tmp_path, with_attribute(default)))
    assert error.where == "out"
    assert error.what.startswith("Relu has the attribute 'reversed' (b: true), which TensorFlow 2.")


def test_29_an_unknown_attribute_of_its_default_value_is_accepted(tmp_path):
    assert features(read(tmp_path, with_attribute(True))).shape == (2, 2)


def of_version(**versions: int) -> Graph:
    return replace(dense(), versions=GraphDef(versions=versions).versions)


def test_30_a_graph_for_newer_programs_only_is_refused_with_both_versions(tmp_path):
    error = refusal(features, read(tmp_path, of_version(producer=9999, min_consumer=9998)))
    assert "9998" in error.todo
    assert str(tf.version.GRAPH_DEF_VERSION) in error.todo


def test_30_a_graph_of_a_newer_writer_is_warned_of_with_both_versions(tmp_path):
    source = read(tmp_path, of_version(producer=9999))
    (said,) = doubts.warnings(source, make_variants(source, True, []).evaluation, read_values(source))
    assert "9999" in said
    assert str(tf.version.GRAPH_DEF_VERSION) in said


def twice(name: str) -> Any:
    meta = meta_of(dense(relu("beside", "x")))
    meta.graph_def.node.add().CopyFrom(next(n for n in meta.graph_def.node if n.name == name))
    return meta


def reading(ref: str, *more: Any) -> Any:
    """`out` reads what is not there."""
    source, ops = with_ops(ending(dense(), changed(relu("out"), input=[ref]), *more))
    ops.op.add(name="MatMul", output_arg=[{"type_attr": "T"}])
    return meta_of(source)


BROKEN = {
    "node twice": (twice("out_0"), "out_0", ["more than one node out_0"]),
    "missing input": (reading("gone"), "gone", ["'out' reads this"]),
    "circle": (reading("a", node("a", "Add", "b", "out_0"), relu("b", "a")), "a", ["in a circle", "a → b → a"]),
    "bad port": (reading("out_0:3"), "out", ["reads 'out_0:3'", "'out_0' (MatMul) has 1 output"]),
    "no port": (reading("out_0:first"), "out", ["reads 'out_0:first'"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_31_what_is_no_graph_is_named_below_the_cut(tmp_path, case):
    source, where, says = BROKEN[case]
    error = refused(tmp_path, source)
    assert error.where == where
    assert [part for part in says if part not in error.what] == []


@pytest.mark.parametrize("meta", [twice("beside"), *(meta for meta, *_ in list(BROKEN.values())[1:])])
def test_31_what_is_no_graph_is_ignored_outside_the_cut(tmp_path, meta):
    assert features(read_source(save(tmp_path, meta), "out_0", {}, {})).shape == (2, 2)


def test_31_a_loop_is_no_circle(tmp_path):
    assert read(tmp_path, loop_graph(), {"w": np.ones(3, np.float32)}).cut == "out:0"


# ---- 32 to 36: the cut


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ("fc_7", "did you mean fc7:0 or fc8:0 or fc7/biases:0?"),
        ("vgg/fc7", "did you mean fc7:0"),
        ("fc7:1", "did you mean fc7:0?"),
        ("fc7:0:0", "write it as scope/op:0"),
    ],
)
def test_32_a_cut_that_is_not_there_is_answered_with_the_nearest_names(cut, says):
    golden = GOLDENS["conv_ref"]
    assert says in str(refusal(source_of, golden, cut))
    assert source_of(golden, "fc7").cut == "fc7:0"


def test_32_an_op_that_gives_no_tensor_is_no_cut():
    meta = metagraph.read(Path(f"{GOLDENS['conv_ref'].prefix}.meta"))
    op = next(n.name for n in meta.graph_def.node if n.op == "NoOp")
    assert "gives no tensor" in str(refusal(source_of, GOLDENS["conv_ref"], op))


def test_33_every_placeholder_that_has_to_be_fed_is_named_with_dtype_and_shape(tmp_path):
    source = graph(
        fed("x", None, 3),
        fed("labels", None, dtype=INT),
        fed("is_training", dtype=BOOL),
        variable("dense/w", 3, 2),
        node("out", "Made", "x", "labels", "is_training", "dense/w"),
    )
    said = str(refused(tmp_path, source))
    assert "'x:0' (float, ?×3), 'labels:0' (int32, ?), 'is_training:0' (bool, scalar)" in said
    assert "add source.feeds.is_training: False" in said
    assert "name x:0, labels:0 in source.inputs" in said


@pytest.mark.parametrize("op", ["QueueDequeueManyV2", "IteratorGetNext"])
def test_33_a_queue_or_an_iterator_is_named_as_what_brings_the_data(tmp_path, op):
    source = graph(make_node("batch", op, []), variable("dense/w", 3, 2), node("out", "MatMul", "batch:1", "dense/w"))
    error = refused(tmp_path, source)
    assert f"'batch:1' ({op})" in error.what
    assert 'source.inputs={images: "batch:1"}' in error.todo


def test_34_a_cut_of_unknown_rank_is_refused(tmp_path):
    assert "does not say how wide the cut is" in refusal(heads.flattening, None, "avg").what


@pytest.mark.parametrize("cut", ["pi", "scaled"])
def test_35_a_cut_without_variables_is_refused(tmp_path, cut):
    source = dense(constant("pi", 3.0, FLOAT), node("scaled", "Mul", "x", "pi"))
    error = refusal(read_source, save(tmp_path, source), cut, {}, {})
    assert error.where in ("cut", "source.inputs")
    assert "no variable below the cut" in error.what or "depends on no input" in error.what


@pytest.mark.parametrize("device", ["/gpu:7", "/job:ps/replica:0/task:3/device:CPU:0", "/device:TPU:0"])
def test_36_the_author_s_devices_and_colocations_are_forgotten(tmp_path, device):
    source = dense()
    for each in source.nodes.values():
        each.device = device
        each.attr["_class"].list.s.append(b"loc:@gone/away")
    assert features(read(tmp_path, source)).tolist() == [[3.0, 3.0], [12.0, 12.0]]


# ---- 37 to 42: the checkpoint


def test_37_a_dtype_mismatch_names_the_variable_both_dtypes_and_the_file(tmp_path):
    error = refused(tmp_path, dense(), {"dense/w": np.ones((3, 2), np.int32)})
    assert error.where == str(tmp_path / "model")
    assert error.what == "variable 'dense/w' is float in the graph, int32 in the checkpoint"


def test_38_a_shape_mismatch_names_the_variable_and_both_shapes(tmp_path):
    error = refused(tmp_path, dense(), {"dense/w": np.ones((3, 4), np.float32)})
    assert error.what == "variable 'dense/w' is 3×2 in the graph, 3×4 in the checkpoint"


def sum_of(count: int, scope: str = "") -> Graph:
    names = [f"{scope}layer{i}/w" for i in range(count)]
    return graph(
        fed("x", None, 3), *(variable(n, 3) for n in names), node("out", "AddN", "x", *names, N={"i": count + 1})
    )


def values_of(count: int, key: str = "layer{}/w") -> dict[str, np.ndarray]:
    return {key.format(i): np.full(3, i, np.float32) for i in range(count)}


@pytest.mark.parametrize("count", [1, 3, 300])
def test_39_missing_variables_are_counted_and_three_are_named(tmp_path, count, capsys):
    error = refused(tmp_path, sum_of(300), {**values_of(300 - count), "global_step": np.int64(7)})
    assert f"{count} of 300 variables below the cut" in error.what
    assert f"layer{300 - count}/w" in error.what
    assert error.what.count("layer") == min(count, 3)
    if count > 3:
        (command,) = [line for line in str(error).splitlines() if "inspect" in line]
        assert main(shlex.split(command.partition("-m finetune ")[2])) == 0
        listed = json.loads(capsys.readouterr().out)["variables"]
        assert sum(v["status"] == "missing" for v in listed) == count


def test_40_tensors_that_are_not_needed_are_counted(tmp_path):
    unneeded = {"dense/w": np.ones((3, 2), np.float32), "dense/w/Adam": np.ones((3, 2), np.float32), "s": np.float32(1)}
    assert read(tmp_path, dense(), unneeded).unused_keys == 2


RENAMED = {
    "model/layer{}/w": ["^", "model/"],
    "layer{}/w/.ATTRIBUTES/VARIABLE_VALUE": ["$", "/.ATTRIBUTES/VARIABLE_VALUE"],
    "layer{}/weights": ["/w$", "/weights"],
}


@pytest.mark.parametrize("key", RENAMED)
def test_41_the_rule_that_would_find_the_most_is_proposed_and_works(tmp_path, key):
    error = refused(tmp_path, sum_of(40), values_of(38, key))
    rule, _, promise = error.todo.partition(" would find ")
    assert promise == "38 of 40"
    pasted = composed_with(*shlex.split(rule))
    assert pasted.source.rename == [RENAMED[key]]
    wishes = Wishes(rename=pasted.source.rename, allow_missing=["layer3[89]/w"])
    source = read(tmp_path, sum_of(40), values_of(38, key), wishes=wishes)
    assert read_values(source)["layer37/w"].tolist() == [37, 37, 37]


@pytest.mark.parametrize("scope", ["module/", "tower_0/"])
def test_41_a_scope_that_the_checkpoint_has_not_is_taken_away(tmp_path, scope):
    error = refused(tmp_path, sum_of(40, scope), values_of(40))
    assert error.todo == f"""'source.rename=[["^{scope}",""]]' would find 40 of 40"""


def test_41_moving_averages_are_proposed_where_only_they_are_there(tmp_path):
    averages = values_of(40, "layer{}/w/ExponentialMovingAverage")
    assert refused(tmp_path, sum_of(40), averages).todo == "source.weights=averages would find 40 of 40"
    source = read(tmp_path, sum_of(40), averages, wishes=Wishes(averages=True))
    assert read_values(source)["layer7/w"].tolist() == [7, 7, 7]


def test_41_another_model_s_checkpoint_gets_no_proposal(tmp_path):
    strange = {f"other/{i}/kernel": np.ones((i + 1, 7), np.float32) for i in range(40)}
    error = refused(tmp_path, sum_of(40), strange)
    assert error.todo == "is this the checkpoint of this graph?"


def composed_with(*words: str) -> Any:
    from finetune.compose import compose

    return compose(["recipe=vgg_2class", *words]).recipe


@pytest.fixture
def deep(workdir: Path) -> list[str]:
    """Words for a run on three layers, the middle one with a moving average, the last one missing."""
    layers = [node(f"h{i}", "MatMul", f"h{i - 1}" if i else "x", f"layer{i}/w") for i in range(3)]
    unneeded = variable("old_head/w", 3)
    save(
        workdir / "pair",
        graph(fed("x", None, 3), *(variable(f"layer{i}/w", 3, 3) for i in range(3)), unneeded, *layers),
        {
            "layer0/w": np.eye(3, dtype=np.float32),
            "layer1/w": np.eye(3, dtype=np.float32),
            "layer1/w/ExponentialMovingAverage": np.eye(3, dtype=np.float32) * 2,
        },
    )
    (workdir / "mine.yaml").write_text("""
source: {path: pair, weights: averages, allow_missing: ["layer2/.*"]}
cut: h2
stop_gradient: ["h0:0"]
learn: [["layer1/.*", 0], ["layer2/.*", 0.5]]
head: {classes: 2}
data: {kind: synthetic, preprocess: none}
train: {steps: 2}
""")
    return ["recipe=mine.yaml", "run.dir=run"]


def test_41_what_every_variable_starts_from_and_whether_it_learns_is_told_to_people_and_programs(deep, capsys):
    assert main(deep) == 0
    said = capsys.readouterr().out
    assert "weights: 2 of 3 variables found, 18 values; 1 other tensors of the checkpoint are not needed" in said
    assert "averages: 1 of 3 variables start from their moving averages" in said
    assert "missing: the checkpoint lacks layer2/w (Glorot uniform), as source.allow_missing allows" in said
    assert "layer0/w     3×3  frozen: no gradient passes the barrier h0:0" in said
    assert "layer1/w     3×3  frozen: rule 'layer1/.*'" in said
    assert "layer2/w     3×3  learns: rule 'layer2/.*', rate × 0.5" in said
    assert "not below the cut: old_head/w" in said
    assert "frozen: 2 variables in the pair are bit-identical to the source" in said
    record = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    told = record["variables"]
    assert {name: (v["key"], v["start"], v["rate"], v["rule"], v["barriers"]) for name, v in told.items()} == {
        "layer0/w": ("layer0/w", "checkpoint", 0.0, None, ["h0:0"]),
        "layer1/w": ("layer1/w/ExponentialMovingAverage", "moving average", 0.0, "layer1/.*", []),
        "layer2/w": (None, "Glorot uniform", 0.5, "layer2/.*", []),
        "head/kernel": (None, "new", 1.0, None, []),
        "head/bias": (None, "new", 1.0, None, []),
    }
    assert record["not_below_the_cut"] == ["old_head/w"]
    written = tf.train.load_checkpoint("run/model/model").get_tensor("layer1/w")
    assert written.tolist() == (np.eye(3) * 2).tolist()


def test_41_inspect_says_that_there_are_averages(deep, capsys):
    assert main(["inspect", "pair"]) == 0
    assert (
        "averages: there are moving averages of 1, source.weights=averages starts from them" in capsys.readouterr().out
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_42_weights_that_are_no_numbers_stop_the_run_unless_it_is_allowed(tmp_path, bad):
    values = np.ones((3, 2), np.float32)
    values[1, 1] = bad
    source = read(tmp_path, dense(), {"dense/w": values, "unneeded": np.full(2, np.nan, np.float32)})
    error = refusal(read_values, source)
    assert (error.where, error.status) == (str(tmp_path / "model"), 3)
    assert error.what == "there is NaN or Inf in 'dense/w' (1 of 6 values)"
    assert "source.allow_nonfinite=true" in error.todo
    assert not np.isfinite(read_values(source, allow_nonfinite=True)["dense/w"][1, 1])


# ---- 43 to 46


@pytest.mark.parametrize("name", ["bn_cond", "bn_moments"])
def test_43_batch_norm_left_in_training_mode_is_warned_of_by_layer(name):
    golden = GOLDENS[name]
    layers = sorted({statistic.rpartition("/")[0] for statistic in golden.statistics})
    warned = {}
    for phase in ("train", "eval"):
        source = source_of(golden, feeds=golden.feeds[phase])
        warned[phase] = doubts.warnings(source, make_variants(source, True, []).evaluation, read_values(source))
    assert warned["eval"] == []
    assert [layer for layer in layers[:3] if layer not in warned["train"][0]] == []
    assert "normalises by the batch in evaluation too" in warned["train"][0]


def test_43_statistics_that_were_never_moved_are_warned_of():
    golden = GOLDENS["bn_cond"]
    source = source_of(golden)
    values = read_values(source)
    assert doubts.unmoved_statistics(source, values) == []
    new = {n: np.full_like(v, "variance" in n) if "block2/bn/moving" in n else v for n, v in values.items()}
    assert doubts.unmoved_statistics(source, new) == ["block2/bn"]


KINDS = {
    "while": "while_scalar",
    "cond": "cond_data",
    "TensorArray": "rnn_sequence",
    "reference variables": "conv_ref",
    "resource variables": "dense_resource",
    "partitioned variables, sparse embeddings": "embedding",
}


@pytest.mark.parametrize("kind", KINDS)
def test_44_features_of_every_kind_of_graph_are_those_of_tensorflow_1(kind):
    golden = GOLDENS[KINDS[kind]]
    ours = features_of(source_of(golden), golden.feeds["eval"])(golden.batch)
    np.testing.assert_allclose(ours, golden.answer("eval", "features"), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU can compute it")
def test_44_a_cudnn_blob_needs_a_gpu_and_the_error_says_so(tmp_path):
    rnn = make_node("rnn", "CudnnRNN", ["x", "h", "h", "dense/w"], T={"type": FLOAT}, is_training={"b": False})
    source = graph(fed("x", 2, 3, 4), constant("h", np.ones((1, 3, 4)), FLOAT), variable("dense/w", 200), rnn)
    source = source.with_nodes({**source.nodes, "out": relu("out", "rnn")})
    found = read(tmp_path, source, {"dense/w": np.ones(200, np.float32)})
    error = refusal(features, found, np.ones((2, 3, 4), np.float32))
    assert (error.where, error.what) == ("rnn", "TensorFlow has no kernel for CudnnRNN on this machine's devices")


def test_45_collections_and_a_saver_that_are_damaged_are_not_missed(tmp_path):
    golden = GOLDENS["conv_ref"]
    shutil.copytree(golden.folder, tmp_path / "pair")
    path = next((tmp_path / "pair").glob("*.meta"))
    meta = metagraph.read(path)
    for collection in meta.collection_def.values():
        if collection.bytes_list.value:
            collection.bytes_list.value[:] = [b"\xff\xff\xff"]
    meta.ClearField("saver_def")
    path.write_bytes(meta.SerializeToString())
    source = source_of(golden, path=str(tmp_path / "pair"))
    ours = features_of(source, golden.feeds["eval"])(golden.batch)
    np.testing.assert_allclose(ours, golden.answer("eval", "features"), rtol=1e-5, atol=1e-5)


def test_46_a_head_that_is_named_like_a_node_of_the_source_names_the_key(workdir, capsys):
    assert main(["recipe=vgg_2class", "train.steps=1", "head.name=conv1"]) == 2
    assert "error[recipe] head.name: the source has 'conv1" in capsys.readouterr().err
    assert list(workdir.iterdir()) == []
