"""Promise: what is exported of a pair computes what the pair computes, whatever kind of graph it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from goldens import GOLDENS, Golden, every_golden, model_of, softmax_of, source_of

from finetune.engine import heads
from finetune.engine.graft import graft, pair_graph
from finetune.errors import UserError
from finetune.examples.tasks import Task
from finetune.exports import convert, onnx, parity, reload
from finetune.exports.serving import Serving, frozen_graph, read_serving
from finetune.recipe import Head
from finetune.results import export
from finetune.results.card import Card, HeadCard
from finetune.surgery.source import Source, read_source, read_values
from finetune.surgery.variants import make_variants

tf1 = tf.compat.v1
CLASSES = ("a", "b", "c")
OUTPUTS = {"logits": "head/logits:0", "probabilities": "head/probabilities:0"}


def pair_of(source: Source, folder: Path) -> Card:
    """Writes the pair of a source and a head of three classes."""
    model = model_of(source, stop_gradient=True)
    values = {**read_values(source), **heads.initial_values(model.new_variables, 0)}
    export.write_pair(folder, pair_graph(source, model), values, source.pieces(), beside={})
    feeds = {t: v["eval"] if isinstance(v, dict) else v for t, v in source.feeds.items()}
    return Card(source.inputs, None, feeds, {"head": HeadCard("softmax", CLASSES, OUTPUTS)})


def serving_of(golden: Golden, folder: Path) -> Serving:
    return read_serving(folder, pair_of(source_of(golden), folder))


def exported(serving: Serving, to: str, folder: Path, examples: dict[str, Any]) -> dict[str, Any]:
    """What each way of asking an export gives; in this process, for a new one takes seconds."""
    if to != "savedmodel":
        folder.mkdir()
    card = convert.WRITERS[to](serving, folder)
    return reload.WAYS[to](folder, card, examples)


def truth(golden: Golden, folder: Path) -> dict[str, Any]:
    return reload.pair(folder, {tensor: golden.batch[f] for f, tensor in golden.inputs.items()}, OUTPUTS)


@every_golden
def test_a_frozen_graph_has_the_numbers_of_the_pair(golden: Golden, tmp_path: Path):
    serving = serving_of(golden, tmp_path / "pair")
    found = exported(serving, "frozen", tmp_path / "frozen", golden.batch)["session"]
    expected = truth(golden, tmp_path / "pair")
    assert all(found[name].tobytes() == expected[name].tobytes() for name in OUTPUTS)
    assert found["classes"].tolist() == [CLASSES[i].encode() for i in expected["logits"].argmax(axis=1)]
    ops = {node.op for node in frozen_graph(serving)[0].node}
    assert not [op for op in ops if re.search("Variable|VarHandle|Random|Assign|PlaceholderWithDefault", op)]


@pytest.mark.parametrize("name", ["rnn_while", "embedding"])
def test_a_saved_model_has_the_numbers_of_the_pair(name: str, tmp_path: Path):
    golden = GOLDENS[name]
    found = exported(serving_of(golden, tmp_path / "pair"), "savedmodel", tmp_path / "saved", golden.batch)
    expected = truth(golden, tmp_path / "pair")
    assert found.keys() == {"serving_default", "TensorFlow 1"}
    for answers in found.values():
        np.testing.assert_allclose(answers["probabilities"], expected["probabilities"], rtol=0, atol=1e-6)
    held = {key for key, _ in tf.train.list_variables(str(tmp_path / "saved" / "variables" / "variables"))}
    assert held == {*golden.keys, "head/kernel", "head/bias"}


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_tensorflow_lite_has_the_numbers_of_the_pair(tmp_path: Path):
    golden = GOLDENS["while_scalar"]
    found = exported(serving_of(golden, tmp_path / "pair"), "tflite", tmp_path / "lite", golden.batch)["interpreter"]
    expected = truth(golden, tmp_path / "pair")
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=0, atol=1e-4)


def test_an_op_that_tensorflow_lite_has_not_is_named(tmp_path: Path):
    """The interpreter's extension takes such ops where it can; where it cannot, the export is refused by name."""
    serving = serving_of(GOLDENS["rnn_while"], tmp_path / "pair")
    (tmp_path / "lite").mkdir()
    card = convert.WRITERS["tflite"](serving, tmp_path / "lite")
    assert "TensorArrayV3" in card["select_tf_ops"]
    assert "TensorFlow Lite has no TensorArray" in str(parity._unusable("tflite", card, "…"))


@pytest.mark.slow
@every_golden
def test_onnx_has_the_numbers_of_the_pair(golden: Golden, tmp_path: Path):
    for package in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    found = exported(serving_of(golden, tmp_path / "pair"), "onnx", tmp_path / "onnx", golden.batch)["onnxruntime"]
    expected = truth(golden, tmp_path / "pair")
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=0, atol=1e-4)
    assert (tmp_path / "onnx" / onnx.FILE).is_file()


def test_two_heads_are_told_apart(tmp_path: Path):
    source = source_of(GOLDENS["dense_resource"])
    tasks = [softmax_of(3, source.cut, "kind"), Task("size", source.cut, "size", "squared", (), 2)]
    words = {"kind": Head(name="kind"), "size": Head(name="size", loss="squared")}
    model = graft(make_variants(source, True, []), words, tasks)
    values = {**read_values(source), **heads.initial_values(model.new_variables, 0)}
    export.write_pair(tmp_path / "pair", pair_graph(source, model), values, source.pieces(), beside={})
    kind = HeadCard("softmax", CLASSES, {"logits": "kind/logits:0", "probabilities": "kind/probabilities:0"})
    size = HeadCard("squared", (), {"logits": "size/logits:0", "values": "size/values:0"})
    card = Card(source.inputs, None, {}, {"kind": kind, "size": size})
    serving, batch = read_serving(tmp_path / "pair", card), GOLDENS["dense_resource"].batch
    found = exported(serving, "savedmodel", tmp_path / "saved", batch)["serving_default"]
    expected = reload.pair(tmp_path / "pair", {source.inputs[f]: rows for f, rows in batch.items()}, card.outputs())
    assert found.keys() == {*expected, "kind/classes"}
    for name, truth in expected.items():
        np.testing.assert_allclose(found[name], truth, rtol=0, atol=1e-6)


@pytest.fixture
def words(tmp_path: Path) -> Serving:
    """words:0 -> ids by a lookup table -> rows of an embedding."""
    with tf.Graph().as_default(), tf1.Session() as session:
        fed = tf1.placeholder(tf.string, [None], "words")
        contents = tf.lookup.KeyValueTensorInitializer(["cat", "dog"], tf.range(1, 3, dtype=tf.int64))
        table = tf.lookup.StaticHashTable(contents, default_value=0)
        rows = tf1.get_variable("embedding", initializer=np.float32([[0, 0], [1, 2], [3, 4]]), use_resource=False)
        tf.identity(tf.gather(rows, table.lookup(fed)) * 2.0, "features")
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(session, str(tmp_path / "words"))
    source = read_source(str(tmp_path / "words"), "features", {}, {})
    return read_serving(tmp_path / "pair", pair_of(source, tmp_path / "pair"))


@pytest.mark.parametrize(("to", "ways"), [("frozen", 1), ("savedmodel", 2)])
def test_lookup_tables_are_exported(words: Serving, tmp_path: Path, to: str, ways: int):
    asked = np.array(["dog", "cat", "a dog", ""], object)
    expected = reload.pair(tmp_path / "pair", {"words:0": asked}, OUTPUTS)["probabilities"]
    assert np.unique(expected, axis=0).shape == (3, 3)  # or a table that finds nothing would do
    found = exported(words, to, tmp_path / "out", {"words": asked})
    assert len(found) == ways
    for answers in found.values():
        np.testing.assert_allclose(answers["probabilities"], expected, rtol=0, atol=1e-6)


def test_the_probe_of_a_table_asks_for_what_is_in_it(words: Serving):
    examples = parity.probe(words, fixed_size=False)
    assert set(examples.raw["words"].tolist()) == {b"cat", b"dog"}
    assert examples.prepared["words:0"] is examples.raw["words"]


def test_142_an_op_that_is_not_allowed_is_refused(words: Serving, tmp_path: Path):
    path = tmp_path / "pair" / "model.meta"
    meta = tf1.MetaGraphDef.FromString(path.read_bytes())
    node = next(n for n in meta.graph_def.node if n.name == "head/logits")
    node.op = "ReadFile"
    path.write_bytes(meta.SerializeToString())
    with pytest.raises(UserError, match="ReadFile"):
        read_serving(tmp_path / "pair", words.card)
