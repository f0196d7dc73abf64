"""Promise: a SavedModel and a frozen .pb of a source are as good as its pair."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from goldens import CLASSES, GOLDENS, Arrays, Golden, arguments, arrays, features_of, live, same_bits, source_of

from finetune.engine.graft import graft, pair_graph
from finetune.errors import UserError
from finetune.graph import from_meta
from finetune.names import node_of
from finetune.reading import metagraph
from finetune.reading.variables import find_variables
from finetune.reading.weights import read_tensors
from finetune.recipe import Head
from finetune.results import export
from finetune.surgery.source import Source, read_values
from finetune.surgery.variants import make_variants
from tests.graphs import softmax_of

tf1 = tf.compat.v1

SAVED = ["dense_resource", "embedding", "dict_saver"]  # resources, pieces of a variable, a Saver with names of its own
FROZEN = ["conv_ref", "bn_cond", "rnn_while"]  # dropout, batch norm in branches, a loop

TASKS = [softmax_of(CLASSES, "")]


def saved_model(golden: Golden, folder: Path) -> Path:
    with live(golden) as session:
        session.session.run(tf1.global_variables_initializer())  # a Saver with names of its own leaves some out
        session.restore()
        builder = tf1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session.session, ["serve"], clear_devices=True)
        builder.save()
    return folder


def frozen_pb(golden: Golden, path: Path) -> Path:
    with live(golden) as session:
        session.restore()
        definition = session.graph.as_graph_def()
        content = tf1.graph_util.convert_variables_to_constants(session.session, definition, [node_of(golden.cut)])
    path.write_bytes(content.SerializeToString())
    return path


def truth_of(golden: Golden) -> Arrays:
    with live(golden) as session:
        return session.ask({"features": golden.cut}, golden.fed("eval"))


def written(golden: Golden, source: Source, folder: Path) -> Path:
    """The pair of the source with a new head, as a run that learned nothing leaves it."""
    pretrained = read_values(source)
    # A frozen graph does not record how wide the cut is; a batch shows it.
    model = graft(
        make_variants(source, True, ()),
        {"head": Head()},
        TASKS,
        partial(arguments, pretrained, golden.batch),
    )
    values = {**pretrained, **dict(zip(model.new_variables, golden.head.values(), strict=True))}
    export.write_pair(folder, pair_graph(source, model), values, source.pieces(), beside={})
    return folder


def restored(golden: Golden, folder: Path) -> Arrays:
    """The features of a pair in plain TensorFlow, which is fed nothing but the batch."""
    with tf.Graph().as_default() as graph, tf1.Session() as session:
        prefix = tf1.train.latest_checkpoint(str(folder))
        tf1.train.import_meta_graph(f"{prefix}.meta").restore(session, prefix)
        feeds = {tensor: golden.batch[field] for field, tensor in golden.inputs.items()}
        return session.run({"features": graph.get_tensor_by_name(golden.cut)}, feeds)


def held(golden: Golden, path: Path, folder: Path) -> tuple[Source, Arrays]:
    """The source of another format, shown to have the features of the golden, and a pair written of it too."""
    source, truth = source_of(golden, path=str(path)), truth_of(golden)
    same_bits({"features": features_of(source, golden.feeds["eval"])(golden.batch)}, truth)
    same_bits(restored(golden, written(golden, source, folder)), truth)
    return source, read_values(source)


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_model_is_a_pair(name: str, tmp_path: Path):
    golden = GOLDENS[name]
    source, values = held(golden, saved_model(golden, tmp_path / "saved"), tmp_path / "written")
    same_bits(values, read_values(source_of(golden)))
    assert {v.name for v in source.variables if v.trainable} == set(golden.trainable)


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_graph_is_a_pair(name: str, tmp_path: Path):
    golden = GOLDENS[name]
    source, values = held(golden, frozen_pb(golden, tmp_path / "frozen.pb"), tmp_path / "written")
    original = read_values(source_of(golden))
    same_bits(values, {name: original[name] for name in values})
    assert values.keys() == original.keys()
    assert {v.name for v in source.variables if v.trainable} == set(golden.trainable)


def test_a_saved_model_of_tensorflow_2_has_its_values_under_the_paths_of_its_objects(tmp_path: Path):
    class Layer(tf.Module):
        def __init__(self, size: int, learns: bool = True):
            super().__init__()
            self.kernel = tf.Variable(tf.fill([size], float(size)), name="kernel", trainable=learns)

    root: Any = tf.Module()
    root.second = {"a/b.c": Layer(2), "z": Layer(3, learns=False)}
    root.first = [Layer(4)]
    root.first.append(root.second["z"])
    tf.saved_model.save(root, str(tmp_path))

    pair = metagraph.find_pair(str(tmp_path))
    meta = metagraph.read(pair.meta)
    found = find_variables(meta, from_meta(meta))
    stored = read_tensors(pair.prefix, [v.key for v in found])
    assert sorted(len(stored[v.key]) for v in found) == [2, 3, 4]
    assert all(v.shape == stored[v.key].shape for v in found)
    assert {len(stored[v.key]): v.trainable for v in found} == {2: True, 3: False, 4: True}


def test_gradients_pass_a_loop_whose_context_was_lost(tmp_path: Path):
    golden = GOLDENS["rnn_while"]
    sources = [source_of(golden), source_of(golden, path=str(frozen_pb(golden, tmp_path / "frozen.pb")))]
    gradients = []
    for source in sources:
        values = read_values(source)
        model = graft(
            make_variants(source, False, ()),
            {"head": Head()},
            TASKS,
            partial(arguments, values, golden.batch),
        )
        values |= dict(zip(model.new_variables, golden.head.values(), strict=True))
        found = arrays(model.step(arguments(values, golden.batch, golden.labels)))
        gradients.append({name: array for name, array in found.items() if name.startswith("gradient/")})
    assert {f"gradient/{name}" for name in golden.trainable} <= gradients[1].keys()
    same_bits(gradients[1], gradients[0])


def test_a_loop_without_a_context_is_named_where_a_gradient_would_have_to_pass_it():
    source = source_of(GOLDENS["rnn_while"])
    bare = replace(source, whole=replace(source.whole, whiles=()), below=replace(source.below, whiles=()))
    with pytest.raises(UserError) as caught:
        graft(make_variants(bare, False, ()), {"head": Head()}, TASKS)
    assert "learn: the file has no context for the loop at 'rnn/while/LoopCond'" in str(caught.value)
    graft(make_variants(bare, True, ()), {"head": Head()}, TASKS)
