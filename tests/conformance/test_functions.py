"""Promise: a source whose graph calls functions, branches and loops as TensorFlow 2 does is a source as any other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from goldens import (
    GOLDENS,
    Arrays,
    Golden,
    arguments,
    arrays,
    close,
    features_of,
    model_of,
    same_bits,
    source_of,
    with_head,
)

from finetune.engine.compile import as_function, forward_program
from finetune.engine.graft import pair_graph
from finetune.errors import UserError
from finetune.learning.state import make_state
from finetune.learning.train import make_step
from finetune.recipe import Train
from finetune.results import export
from finetune.surgery.backbone import make_backbone
from finetune.surgery.randomness import random_nodes
from finetune.surgery.source import read_values

tf1 = tf.compat.v1

RATE = 0.1
BATCH = np.random.default_rng(0).normal(size=(6, 4, 3)).astype(np.float32)
LABELS = np.arange(6) % 3
INSIDE = "StatefulPartitionedCall/StatefulPartitionedCall/Tanh:0"


@contextmanager
def control_flow_v2() -> Iterator[None]:
    before = tf1.control_flow_v2_enabled()
    tf1.enable_control_flow_v2()
    try:
        yield
    finally:
        if not before:
            tf1.disable_control_flow_v2()


def variable(name: str, *sizes: int) -> Any:
    return tf1.get_variable(name, sizes, initializer=tf1.random_normal_initializer(stddev=0.5), use_resource=True)


def features(x: Any, training: Any) -> Any:
    """A loop, branches and functions; each reads variables, most of them inside one another."""
    w, u, half = variable("cell/w", 3, 8), variable("cell/u", 8, 8), variable("cell/half", 8)
    steps = tf.TensorArray(tf.float32, 4).unstack(tf.transpose(x, [1, 0, 2]))

    def turn(i: Any, h: Any, hs: Any) -> Any:
        h = tf.tanh(tf.matmul(steps.read(i), w) + tf.matmul(h, u))
        h = tf.cond(i > 1, lambda: h * half, lambda: h)
        return i + 1, h, hs.write(i, h)

    start = [0, tf.zeros([tf.shape(x)[0], 8]), tf.TensorArray(tf.float32, 4)]
    *_, hs = tf.while_loop(lambda i, *_: i < 4, turn, start, name="rnn")
    mean = tf.reduce_mean(hs.stack(), 0)
    one, other, third = (variable(f"dense/{name}", 8, 5) for name in ("one", "other", "third"))
    gate = tf.reduce_sum(mean) > 0
    m = tf.cond(gate, lambda: tf.matmul(mean, one), lambda: tf.matmul(mean, other) * 2.0, name="gate")
    ways = [lambda: m, lambda: m + tf.matmul(mean, third), lambda: -m]
    m = tf.switch_case(tf.cast(gate, tf.int32) + 1 - tf.cast(tf.shape(x)[0] > 0, tf.int32), ways, name="case")
    m = tf.cond(training, lambda: tf.nn.dropout(m, rate=0.5), lambda: m, name="drop")
    shift = variable("shift", 5)

    @tf.function
    def inner(t: Any) -> Any:
        return tf.tanh(t + shift), tf.nn.top_k(t, 2)

    @tf.function
    def outer(t: Any) -> Any:
        a, top = inner(t)
        return tf.nn.softplus(a) * 2.0, top[0]

    return tf.concat([*outer(m), outer(-m)[0]], 1, name="features")


def noise(x: Any, training: Any) -> Any:
    """A row of random numbers for each turn of a loop, of a branch in it, and of a function."""
    scale = variable("scale", 3)
    out = tf.TensorArray(tf.float32, 4)

    def turn(i: Any, hs: Any) -> Any:
        drawn = tf.random.uniform([3])
        drawn = tf.cond(i < 9, lambda: tf.stack([drawn, tf.random.uniform([3])]), lambda: tf.zeros([2, 3]))
        return i + 1, hs.write(i, drawn * scale)

    rows = tf.reshape(tf.while_loop(lambda i, _: i < 4, turn, [0, out])[1].stack(), [8, 3])
    draw = tf.function(lambda: tf.random.uniform([1, 3]) * scale)
    return tf.concat([rows + 0.0 * tf.reduce_sum(x), draw(), draw()], 0, name="features")


def saved(folder: Path, network: Any, trained: bool) -> tuple[Golden, Arrays]:
    """A pair as TensorFlow saves it, and what a session on the graph that made it says."""
    with control_flow_v2(), tf.Graph().as_default() as graph, tf1.Session() as session:
        tf1.set_random_seed(3)
        x = tf1.placeholder(tf.float32, [None, 4, 3], "x")
        at = network(x, tf1.placeholder_with_default(False, [], "training"))
        names = [v.op.name for v in tf1.trainable_variables()]
        if trained:  # an optimizer leaves its marks in the loops: what they keep for the gradient
            tf1.train.AdamOptimizer().minimize(tf.reduce_mean(at))
        session.run(tf1.global_variables_initializer())
        saver = tf1.train.Saver()
        saver.save(session, str(folder / "model"))
        width = at.shape[-1] or 10
        head = {"head/kernel": np.linspace(-1, 1, 3 * width, dtype=np.float32).reshape(width, 3)}
        head["head/bias"] = np.zeros(3, np.float32)
        np.savez(folder / "answers.npz", **head, labels=LABELS, **{"input/x": BATCH})
        feeds = {phase: {"training:0": False} for phase in ("train", "eval")}
        keys = {name: name for name in names}
        golden = Golden(folder, folder / "model", "features:0", {"x": "x:0"}, feeds, tuple(names), keys)
        if network is not features:
            return golden, {}
        live = with_head(golden, graph)
        asked = {**live.tensors, **live.gradients()}
        with tf1.Session() as other:  # the gradient has changed the loops, and sessions do not like that
            saver.restore(other, str(folder / "model"))
            answers = other.run(asked, {**golden.fed("eval"), **live.feeds})
            for _ in range(3):
                gradients = other.run(asked, {**golden.fed("eval"), **live.feeds})
                for v in tf1.trainable_variables():
                    v.load(v.eval(other) - RATE * gradients[f"gradient/{v.op.name}"], other)
                for tensor in live.feeds:
                    name = next((n for n in head if live.variables[n] is tensor), None)
                    if name:
                        live.feeds[tensor] = live.feeds[tensor] - RATE * gradients[f"gradient/{name}"]
                        answers[f"after/{name}"] = live.feeds[tensor]
            answers |= {f"after/{v.op.name}": v.eval(other) for v in tf1.trainable_variables()}
    return golden, answers


@pytest.fixture(scope="module")
def source_and_answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Golden, Arrays]:
    return saved(tmp_path_factory.mktemp("pair"), features, trained=True)


def picked(answers: Arrays, start: str) -> Arrays:
    return {name: value for name, value in answers.items() if name.startswith(start)}


def test_features_are_those_of_the_session_that_built_the_graph(source_and_answers: tuple[Golden, Arrays]):
    golden, answers = source_and_answers
    source = source_of(golden)
    assert {v.name for v in source.variables} == set(golden.trainable)
    same_bits({"features": features_of(source, golden.feeds["eval"])(golden.batch)}, picked(answers, "features"))


def test_gradients_are_those_of_the_session_that_built_the_graph(source_and_answers: tuple[Golden, Arrays]):
    golden, answers = source_and_answers
    source = source_of(golden)
    model = model_of(source)
    values = {**read_values(source), **golden.head}
    ours = arrays(model.step(arguments(values, golden.batch, golden.labels)))
    # Not the same bits: what two calls give is added in another order once both are nodes of one graph.
    close(picked(ours, "gradient/"), picked(answers, "gradient/"))


def test_three_steps_and_the_written_pair(source_and_answers: tuple[Golden, Arrays], tmp_path: Path):
    golden, answers = source_and_answers
    source = source_of(golden)
    model = model_of(source)
    values = {**read_values(source), **golden.head}
    state = make_state(values, model.rates, model.updated, {}, Train(optimizer="sgd", learning_rate=RATE))
    step = make_step(model.step, state, seed=0)
    for number in range(1, 4):
        step(number, golden.batch, {"head": golden.labels})
    after = {f"after/{name}": np.asarray(value) for name, value in state.variables().items()}
    close(after, picked(answers, "after/"))
    assert all(np.any(after[f"after/{name}"] != value) for name, value in values.items() if name != "dense/other")

    export.write_pair(tmp_path / "written", pair_graph(source, model), dict(state.variables()), {}, beside={})
    ask = {"folder": str(tmp_path / "written"), "out": str(tmp_path / "out.npz"), "batch": str(tmp_path / "batch.npz")}
    fetches = ["StatefulPartitionedCall:1", "features:0", "head/probabilities:0"]
    ask["asks"] = [{"feeds": {"x:0": "x"}, "fetches": fetches}]
    np.savez(tmp_path / "batch.npz", **golden.batch)
    script = str(Path(__file__).with_name("plain_tensorflow.py"))
    result = subprocess.run(
        [sys.executable, script], input=json.dumps(ask), capture_output=True, text=True, timeout=120, check=True
    )
    about = json.loads(result.stdout)
    assert "error" not in about, about["error"]
    assert about["without_gradient"] == []
    backbone = make_backbone(source.whole, golden.cut, golden.inputs, golden.feeds["eval"])
    ours = as_function(forward_program(backbone, model.grafts), ["features", "head/probabilities"])
    with np.load(tmp_path / "out.npz") as found:
        assert found["0/StatefulPartitionedCall:1"].tobytes() == found["0/features:0"][:, 5:7].tobytes()
        truth = {"features": found["0/features:0"], "head/probabilities": found["0/head/probabilities:0"]}
    same_bits(arrays(ours(arguments(state.variables(), golden.batch))), truth)


def test_a_cut_may_lie_inside_a_function_or_be_an_output_of_one(source_and_answers: tuple[Golden, Arrays]):
    golden, answers = source_and_answers
    inside = features_of(source_of(golden, INSIDE), golden.feeds["eval"])(golden.batch)
    whole = answers["features"]
    np.testing.assert_allclose(np.log1p(np.exp(inside)) * 2, whole[:, :5], rtol=1e-5)
    second = features_of(source_of(golden, "StatefulPartitionedCall:1"), golden.feeds["eval"])(golden.batch)
    assert second.tobytes() == whole[:, 5:7].tobytes()


def test_a_branch_that_the_feeds_decide_is_taken(source_and_answers: tuple[Golden, Arrays]):
    golden, _ = source_and_answers
    source = source_of(golden, "drop:0")
    off, on = (
        make_backbone(source.whole, "drop:0", golden.inputs, {"training:0": training}) for training in (False, True)
    )
    ops = [{n.op for n in b.graph.nodes.values()} for b in (off, on)]
    assert [("StatelessRandomUniform" in each) for each in ops] == [False, True]
    dropped = features_of(source, {"training:0": True})
    assert dropped(golden.batch, (1, 2)).tobytes() == dropped(golden.batch, (1, 2)).tobytes()
    assert dropped(golden.batch, (1, 2)).tobytes() != dropped(golden.batch, (1, 3)).tobytes()


def test_random_numbers_differ_by_turn_by_branch_by_call_and_by_seed_only(tmp_path: Path):
    golden, _ = saved(tmp_path, noise, trained=False)
    source = source_of(golden)
    assert len(random_nodes(source.below)) == 4
    drawn = features_of(source, {})
    rows = drawn(golden.batch, (1, 2))
    assert len(np.unique(rows, axis=0)) == len(rows) == 10
    assert drawn(golden.batch, (1, 2)).tobytes() == rows.tobytes()
    assert not np.any(np.all(drawn(golden.batch, (1, 3)) == rows, axis=1))


def test_an_assignment_in_a_loop_is_refused_by_name(tmp_path: Path):
    def counting(x: Any, training: Any) -> Any:
        count = variable("count")

        def turn(i: Any, h: Any) -> Any:
            count.assign_add(1.0)
            return i + 1, h * count

        return tf.identity(tf.while_loop(lambda i, _: i < 2, turn, [0, x], name="loop")[1][:, 0], name="features")

    golden, _ = saved(tmp_path, counting, trained=False)
    with pytest.raises(UserError, match=r"loop → .* → .*: AssignAddVariableOp assigns to variable 'count'"):
        features_of(source_of(golden), {})


def test_a_loop_whose_context_is_in_no_file_has_features_and_no_gradient():
    golden = GOLDENS["while_scalar"]
    source = source_of(golden)
    features = features_of(source, golden.feeds["eval"])(golden.batch)
    lost = replace(source, whole=replace(source.whole, whiles=()))
    assert features_of(lost, golden.feeds["eval"])(golden.batch).tobytes() == features.tobytes()
    with pytest.raises(UserError, match=r"no context for the loop at .*, so no gradient can pass it"):
        model_of(lost)
