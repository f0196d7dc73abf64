"""Promise: what is random in a source is a function of the seed, and still random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from goldens import GOLDENS, Arrays, Golden, arguments, arrays, every_golden, features_of, model_of, source_of

from finetune.engine.compile import control_flow_v1, import_graph
from finetune.graph import from_meta
from finetune.protos import MetaGraphDef
from finetune.surgery.backbone import make_backbone
from finetune.surgery.randomness import SEED, random_nodes
from finetune.surgery.source import read_values

tf1 = tf.compat.v1

RANDOM = ("conv_ref", "dropout_while")  # each by one dropout
HALF = {"keep_prob:0": 0.5}
ALL = {"keep_prob:0": 1.0}
SIGMAS = 5


def feeds_of(golden: Golden) -> tuple[dict[str, object], dict[str, object]]:
    """Those of an evaluation, and the same with dropout."""
    evaluation = dict(golden.feeds["eval"])
    return evaluation, evaluation | (HALF if golden.name in RANDOM else {})


@every_golden
def test_only_what_is_random_depends_on_the_seed(golden: Golden):
    source = source_of(golden)
    drawn = random_nodes(source.below)
    assert bool(drawn) == (golden.name in RANDOM)
    kept, dropped = (make_backbone(source.whole, [source.cut], source.inputs, feeds) for feeds in feeds_of(golden))
    assert SEED not in kept.graph.nodes  # where dropout keeps everything, nothing is drawn
    assert bool(drawn) == (SEED in dropped.graph.nodes)
    assert random_nodes(dropped.graph) == []
    features = features_of(source, golden.feeds["eval"])
    assert features(golden.batch, seed=(0, 1)).tobytes() == features(golden.batch, seed=(5, -7)).tobytes()


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name: str):
    golden = GOLDENS[name]
    once, again = (features_of(source_of(golden), HALF) for _ in range(2))
    seeds = [(0, 0), (0, 1), (1, 0), (1, 1), (2**31 - 1, -(2**31))]
    found = [once(golden.batch, seed).tobytes() for seed in seeds]
    assert len(set(found)) == len(seeds)
    assert found[::-1] == [again(golden.batch, seed).tobytes() for seed in seeds[::-1]]


def drawn(name: str, at: str, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Features under dropout, one set for each seed, and those without dropout."""
    golden = GOLDENS[name]
    source = source_of(golden, at)
    features = features_of(source, HALF)
    many = np.stack([features(golden.batch, (seed, 0)) for seed in range(seeds)]).astype(np.float64)
    return many, features_of(source, ALL)(golden.batch)


# Cuts up to which what follows dropout is linear: before the last activation, and the first turn of a loop, whose
# state is still zero.
@pytest.mark.parametrize(
    ("name", "at", "where"), [("conv_ref", "fc7/BiasAdd:0", ...), ("dropout_while", "transpose_1:0", np.s_[:, 0])]
)
def test_the_mean_over_seeds_is_what_there_is_without_dropout(name: str, at: str, where: Any):
    many, without = drawn(name, at, 400)
    many, without = many[(slice(None), *(where if isinstance(where, tuple) else (where,)))], without[where]
    error = many.std(axis=0) / len(many) ** 0.5
    assert error.max() > 0.001
    assert np.all(np.abs(many.mean(axis=0) - without) <= SIGMAS * error + 1e-6)


def test_every_turn_of_a_loop_draws_a_mask_of_its_own():
    golden = GOLDENS["dropout_while"]
    states, _ = drawn("dropout_while", "transpose_1:0", 60)
    kept = masks(golden.batch["x"].astype(np.float64), states, read_values(source_of(golden)))
    count = kept[:, :, 0].size  # of each turn
    assert np.all(np.abs(kept.mean(axis=(0, 1, 3)) - 0.5) < SIGMAS * 0.5 / count**0.5)
    turns = 2.0 * np.moveaxis(kept, 2, 0).reshape(kept.shape[2], -1) - 1.0
    likeness = turns @ turns.T / count
    assert np.all(np.abs(likeness - np.eye(len(turns))) < SIGMAS / count**0.5)


def masks(x: np.ndarray, states: np.ndarray, values: Arrays) -> np.ndarray:
    """What a GRU's dropout let through, seen from its states [seeds, examples, turns, units].

    A state is what the update gate lets through of the state before and, where dropout lets it, something new.
    """
    kernel, bias = values["rnn/gru_cell/gates/kernel"], values["rnn/gru_cell/gates/bias"]
    before = np.concatenate([np.zeros_like(states[:, :, :1]), states[:, :, :-1]], axis=2)
    seen = np.broadcast_to(x, (len(states), *x.shape))
    gates = 1.0 / (1.0 + np.exp(-(np.concatenate([seen, before], axis=-1) @ kernel + bias)))
    update = gates[..., gates.shape[-1] // 2 :]
    return np.abs(states - update * before) > 1e-5


@pytest.mark.parametrize("name", RANDOM)
def test_gradients_are_those_of_the_features_with_the_same_mask(name: str):
    """Against differences of the loss: a backward pass that drew once more would not be its slope."""
    golden = GOLDENS[name]
    source = source_of(golden, feeds=HALF)
    model = model_of(source)
    values = {**read_values(source), **golden.head}
    rng = np.random.default_rng(0)
    way = {n: rng.normal(size=v.shape).astype(np.float32) for n, v in values.items()}

    def step(seed: tuple[int, int], along: float = 0.0) -> Arrays:
        moved = {n: v + np.float32(along) * way[n] for n, v in values.items()}
        return arrays(model.step(arguments(moved, golden.batch, golden.labels, seed)))

    for seed in ((3, 4), (4, 3)):
        gradients = step(seed)
        slope = sum(float(np.sum(gradients[f"gradient/{n}"] * way[n])) for n in values)
        differences = (
            float(step(seed, 2e-4)["loss"] - step(seed, -2e-4)["loss"]) / 4e-4
        )  # small: ReLUs and maxima have kinks
        assert abs(slope) > 0.01
        assert slope == pytest.approx(differences, rel=0.01)
    assert all(np.any(step((3, 4))[f"gradient/{n}"] != step((4, 3))[f"gradient/{n}"]) for n in values)


# ---- tiny sources, for what no golden has


def twice() -> None:
    x = tf1.placeholder(tf.float32, [4], name="x")
    tf1.stack([x * tf1.random.uniform([4], 0.5) for _ in range(2)], name="out")


def loop_in_loop() -> None:
    x = tf1.placeholder(tf.float32, [4], name="x")

    def outer(i: Any, rows: Any) -> Any:
        def inner(j: Any, rows: Any) -> Any:
            return j + 1, rows.write(i * 3 + j, x * tf1.random.uniform([4], 0.5))

        return i + 1, tf1.while_loop(lambda j, rows: j < 3, inner, (tf1.constant(0), rows))[1]

    rows = tf1.TensorArray(tf.float32, 9)
    _, rows = tf1.while_loop(lambda i, rows: i < 3, outer, (tf1.constant(0), rows))
    tf1.identity(rows.stack(), name="out")


def branch_in_loop() -> None:
    x = tf1.placeholder(tf.float32, [4], name="x")

    def body(i: Any, rows: Any) -> Any:
        factor = tf1.cond(i < 3, lambda: tf1.random.uniform([4], 0.5), lambda: tf1.random.uniform([4], 0.5) + 1.0)
        return i + 1, rows.write(i, x * factor)

    rows = tf1.TensorArray(tf.float32, 6)
    _, rows = tf1.while_loop(lambda i, rows: i < 6, body, (tf1.constant(0), rows))
    tf1.identity(rows.stack(), name="out")


def loop_in_branch() -> None:
    x = tf1.placeholder(tf.float32, [4], name="x")

    def loop() -> Any:
        rows = tf1.TensorArray(tf.float32, 6)
        body = lambda i, rows: (i + 1, rows.write(i, x * tf1.random.uniform([4], 0.5)))  # noqa: E731
        return tf1.while_loop(lambda i, rows: i < 6, body, (tf1.constant(0), rows))[1].stack()

    def row() -> Any:
        return x * tf1.random.uniform([6, 4], 0.5)

    tf1.identity(tf1.cond(tf1.reduce_sum(x) > 0.0, loop, row), name="out")


@pytest.mark.parametrize("x", [[1.0, 2.0, 4.0, 8.0], [-1.0, -2.0, -4.0, -8.0]])
@pytest.mark.parametrize("build", [twice, loop_in_loop, branch_in_loop, loop_in_branch])
def test_every_draw_is_another_wherever_it_is_made(build: Callable[[], None], x: list[float]):
    with control_flow_v1(), tf.Graph().as_default() as written:
        build()
        meta = MetaGraphDef.FromString(tf1.train.export_meta_graph(graph=written).SerializeToString())
    backbone = make_backbone(from_meta(meta), ["out:0"], {"x": "x:0"}, {})
    with control_flow_v1(), tf.Graph().as_default() as plain, tf1.Session() as session:
        out = import_graph(backbone)["out:0"]
        (slope,) = tf1.gradients(out, [plain.get_tensor_by_name("x:0")])

        def draw(*seed: int) -> tuple[np.ndarray, np.ndarray]:
            rows, sums = session.run([out, slope], {"x:0": x, f"{SEED}:0": seed})
            return rows / np.array(x), sums

        (factors, sums), (again, _), (others, _) = draw(3, 4), draw(3, 4), draw(4, 4)
    assert len(np.unique(np.concatenate([factors, others]))) == factors.size + others.size
    assert factors.tobytes() == again.tobytes()
    np.testing.assert_allclose(sums, factors.sum(axis=0), rtol=1e-6)
