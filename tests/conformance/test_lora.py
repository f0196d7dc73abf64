"""Promise: small matrices learn as in a graph written with them, and the pair that is written holds their sum.

The truth is the golden's graph imported by TensorFlow with W + s·A B in the place of what reads W, so that its own
`tf.gradients` go through all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from goldens import CLASSES, GOLDENS, Arrays, Golden, arguments, arrays, close, flat, same_bits, source_of

from finetune.engine import lora
from finetune.engine.graft import Model, graft, pair_graph
from finetune.learning.l2_sp import anchors, penalised
from finetune.learning.state import State, make_state
from finetune.learning.train import make_step
from finetune.reading.weights import read_index
from finetune.recipe import Head, Lora, Train
from finetune.results import export
from finetune.surgery.source import Source, read_values
from finetune.surgery.variants import Variants, make_variants
from tests.graphs import softmax_of

tf1 = tf.compat.v1

RANK, ALPHA = 2, 3.0
# Golden -> the tensor that reads each of its matrices: kernels and matrices, by reference and by resource, in a loop.
READS = {
    "conv_ref": {"conv1/weights": "conv1/weights/read:0", "fc7/weights": "fc7/weights/read:0"},
    "dense_resource": {"hidden/kernel": "hidden/MatMul/ReadVariableOp:0"},
    "rnn_while": {"rnn/gru_cell/gates/kernel": "rnn/gru_cell/gates/kernel/read:0"},
}
each = pytest.mark.parametrize("name", READS)


@dataclass(frozen=True)
class Adapted:
    """A golden whose matrices learn through small ones, and values of all of it."""

    golden: Golden
    source: Source
    model: Model
    values: Arrays

    @property
    def batch(self) -> dict[str, Any]:
        return {name: value for name, value in self.golden.batch.items()}


def grafted(phases: Variants, source: Source) -> Model:
    return graft(phases, {"head": Head()}, [softmax_of(CLASSES, source.cut, "head")])


def adapted(name: str, b: float = 0.1) -> Adapted:
    """B is drawn at random, times `b`; 0 is where a run starts."""
    golden = GOLDENS[name]
    source = source_of(golden, feeds=golden.feeds["eval"])
    phases = make_variants(source, False, [], lora=Lora(list(READS[name]), RANK, ALPHA))
    model = grafted(phases, source)
    draw = np.random.default_rng(0)
    small = lora.initial_values(model.adapters, seed=0)
    moved = {
        n: v + np.float32(b) * draw.normal(size=v.shape).astype(np.float32) * n.endswith("/b") for n, v in small.items()
    }
    return Adapted(golden, source, model, {**read_values(source), **golden.head, **moved})


def loss_and_gradients(one: Adapted) -> Arrays:
    return arrays(one.model.step(arguments(one.values, one.batch, one.golden.labels)))


def of_tensorflow(one: Adapted) -> Arrays:
    """The same by a graph that is written with the small matrices."""
    golden, reads = one.golden, READS[one.golden.name]
    before = tf1.control_flow_v2_enabled()
    tf1.disable_control_flow_v2()
    try:
        with (
            tf.Graph().as_default() as graph,
            tf1.Session(config=tf1.ConfigProto(allow_soft_placement=True)) as session,
        ):
            given = {name: tf1.placeholder(tf.float32, value.shape) for name, value in one.values.items()}
            sums = {}
            for name, read in reads.items():
                a, b = given[f"lora/{name}/a"], given[f"lora/{name}/b"]
                sums[read] = given[name] + ALPHA / RANK * tf1.reshape(tf1.matmul(a, b), one.values[name].shape)
            saver = tf1.train.import_meta_graph(f"{golden.prefix}.meta", input_map=sums)
            saver.restore(session, str(golden.prefix))
            features = flat(graph.get_tensor_by_name(golden.cut))
            logits = tf1.nn.bias_add(tf1.matmul(features, given["head/kernel"]), given["head/bias"])
            losses = tf1.nn.sparse_softmax_cross_entropy_with_logits(labels=golden.labels, logits=logits)
            learning = [name for name in given if name.startswith(("lora/", "head/"))]
            loss = tf1.reduce_mean(losses)
            gradients = tf1.gradients(loss, [given[name] for name in learning])
            asked = {"loss": loss, **{f"gradient/{n}": g for n, g in zip(learning, gradients, strict=True)}}
            return session.run(asked, {**golden.fed("eval"), **{given[n]: v for n, v in one.values.items()}})
    finally:
        if before:
            tf1.enable_control_flow_v2()


@each
def test_loss_and_gradients_are_those_of_a_graph_with_small_matrices(name: str):
    one = adapted(name)
    ours = loss_and_gradients(one)
    assert len(ours) == 1 + 2 + 2 * len(READS[name])
    close(ours, of_tensorflow(one), tolerance=1e-5)


@each
def test_at_its_start_it_is_the_source_bit_for_bit(name: str):
    one = adapted(name, b=0.0)
    plain = grafted(make_variants(one.source, True, []), one.source)
    head = {key: value for key, value in one.values.items() if not key.startswith("lora/")}
    ours = loss_and_gradients(one)
    truth = arrays(plain.step(arguments(head, one.batch, one.golden.labels)))
    same_bits({key: ours[key] for key in truth}, truth)
    learning = {key: np.any(value) for key, value in ours.items() if key.startswith("gradient/lora/")}
    assert learning == {key: key.endswith("/b") for key in learning}  # A waits for B to leave zero


def start(one: Adapted, optimizer: str = "adam") -> tuple[State, Any]:
    """State and step with all that the rooms of learning do beside it."""
    train = Train(optimizer=optimizer, learning_rate=0.01, weight_decay=0.1, decay_exclude=["head/.*"])
    state = make_state(one.values, one.model.rates, one.model.updated, one.source.pieces(), train)
    drawn = anchors(one.model.rates, read_values(one.source), one.golden.head, None, 0.01)
    return state, make_step(penalised(one.model.step, drawn), state, seed=0)


def trained(one: Adapted, steps: int) -> State:
    state, step = start(one)
    for number in range(1, steps + 1):
        step(number, one.batch, {"head": one.golden.labels})
    return state


@each
def test_only_small_matrices_and_the_head_move(name: str):
    one = adapted(name, b=0.0)
    state = trained(one, 3)
    moved = {n for n, v in state.variables().items() if not np.array_equal(v, one.values[n])}
    small = {f"lora/{matrix}/{part}" for matrix in READS[name] for part in "ab"}
    assert moved == {*small, *one.golden.head} == set(one.model.rates)


@contextmanager
def plain(folder: Path) -> Iterator[Any]:
    """A session on a pair, as programs of the time make one."""
    with tf.Graph().as_default(), tf1.Session() as session:
        prefix = tf1.train.latest_checkpoint(str(folder))
        tf1.train.import_meta_graph(f"{prefix}.meta").restore(session, prefix)
        yield session


@each
def test_the_pair_holds_the_sum_under_the_old_name_and_plain_tensorflow_has_our_numbers(name: str, tmp_path: Path):
    one = adapted(name, b=0.0)
    state = trained(one, 3)
    values = lora.merged(one.model.adapters, state.variables())
    export.write_pair(tmp_path / "pair", pair_graph(one.source, one.model), values, state.pieces, beside={})
    assert not [key for key in read_index(str(tmp_path / "pair" / "model")) if key.startswith("lora/")]
    ours = arrays(one.model.forward(state.arguments(one.batch, {"head": one.golden.labels})))
    with plain(tmp_path / "pair") as session:
        feeds = {tensor: one.golden.batch[field] for field, tensor in one.golden.inputs.items()}
        found = session.run({"probabilities": "head/probabilities:0"}, feeds)
    same_bits({"probabilities": ours["head/probabilities"]}, found)
    stored = export.read_back(tmp_path / "pair", [v.name for v in one.source.variables], state.pieces)
    changed = {key for key, value in stored.items() if not np.array_equal(value, one.values[key])}
    assert changed == READS[name].keys()


@each
def test_a_resumed_run_ends_with_the_same_bits(name: str):
    one = adapted(name, b=0.0)
    whole = trained(one, 5).everything(5)
    saved = {key: np.asarray(value) for key, value in trained(one, 2).everything(2).items()}
    # What a checkpoint holds for a matrix is the sum; a resume takes the matrix itself from the source.
    sums = lora.merged(one.model.adapters, {key: value for key, value in saved.items() if key in one.values})
    held = {**saved, **{key: np.asarray(value) for key, value in sums.items()}}
    matrices = {adapter.variable for adapter in one.model.adapters}
    taken = {key: one.values[key] if key in matrices else held[key] for key in one.values}
    state, step = start(replace(one, values=taken))
    state.restore(held, begins=False)
    for number in range(3, 6):
        step(number, one.batch, {"head": one.golden.labels})
    same_bits(state.everything(5), whole)


def test_a_gradient_of_a_kernel_is_split_as_that_of_its_matrix():
    """Against a tape, on a kernel whose first three dimensions are the rows."""
    (adapter,) = (a for a in adapted("conv_ref").model.adapters if a.variable == "conv1/weights")
    values = {n: v for n, v in adapted("conv_ref").values.items() if "conv1/weights" in n}
    tensors = {name: tf.constant(value) for name, value in values.items()}

    def quadratic(arguments: Mapping[str, Any]) -> dict[str, Any]:
        w = arguments["variable/conv1/weights"]
        return {"loss": tf.reduce_sum(w**2), "gradient/conv1/weights": 2 * w}

    ours = lora.with_adapters(quadratic, [adapter])({f"variable/{name}": value for name, value in tensors.items()})
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        product = tf.reshape(tensors[adapter.a] @ tensors[adapter.b], adapter.shape)
        loss = tf.reduce_sum((tensors["conv1/weights"] + ALPHA / RANK * product) ** 2)
    truth = tape.gradient(loss, {name: tensors[name] for name in adapter.shapes})
    assert ours.keys() == {"loss", *(f"gradient/{name}" for name in truth)}
    close({name: ours[f"gradient/{name}"] for name in truth}, arrays(truth), tolerance=1e-5)
