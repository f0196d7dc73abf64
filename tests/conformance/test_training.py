"""Promise: training ends where TensorFlow 1 ends, and what is frozen stays as it is, bit for bit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from goldens import CLASSES, GOLDENS, Arrays, Golden, close, every_golden, model_of, same_bits, source_of

from finetune.engine.graft import Model, graft
from finetune.learning.state import State, make_state
from finetune.learning.strides import make_stride
from finetune.learning.train import make_step
from finetune.recipe import Head, Train
from finetune.surgery.source import Source, read_values
from finetune.surgery.variants import make_variants
from tests.graphs import softmax_of

RATE = 0.1
STATISTICS_FROZEN = [[r".*/moving_\w+", 0], [".*", 1]]
WITH_STATISTICS = [name for name, golden in GOLDENS.items() if golden.statistics]


def trained(golden: Golden, source: Source, model: Model, steps: int = 3, targets: Any = None) -> State:
    """The state after some steps of gradient descent on the golden's batch, towards its labels or other targets."""
    learnt = {"head": golden.labels if targets is None else targets}
    state = begun(golden, source, model)
    step = make_step(model.step, state, seed=0)
    for number in range(1, steps + 1):
        step(number, golden.batch, learnt)
    return state


def trained_at_once(golden: Golden, source: Source, model: Model, steps: int = 3) -> State:
    """The same, all steps in one call."""
    batch = {field: np.concatenate([rows] * steps) for field, rows in golden.batch.items()}
    state = begun(golden, source, model)
    made = make_stride(model.step, make_step(model.step, state, seed=0), state, seed=0)
    targets = {"head": np.concatenate([golden.labels] * steps)}
    assert len(made(0, steps, *({n: tf.constant(v) for n, v in given.items()} for given in (batch, targets)))) == steps
    return state


def begun(golden: Golden, source: Source, model: Model) -> State:
    values = {**read_values(source), **golden.head}
    return make_state(values, model.rates, model.updated, source.pieces(), Train(optimizer="sgd", learning_rate=RATE))


def values_of(state: State) -> Arrays:
    return {name: np.asarray(value) for name, value in state.variables().items()}


def after(golden: Golden, phase: str) -> Arrays:
    return {name: golden.answer(phase, f"after/{name}") for name in (*golden.keys, *golden.head)}


@every_golden
def test_three_steps_end_where_those_of_tensorflow_1_end(golden: Golden):
    for phase in golden.phases:
        source = source_of(golden, feeds=golden.feeds[phase])
        # In evaluation the answers leave the statistics alone; the source itself would move them whatever is fed.
        learn = STATISTICS_FROZEN if phase == "eval" and golden.statistics else []
        model = model_of(source, learn=learn)
        assert model.updated == (golden.statistics if phase == "train" else set())
        close(values_of(trained(golden, source, model)), after(golden, phase))


@every_golden
def test_steps_in_one_call_end_with_the_bits_of_one_after_the_other(golden: Golden):
    for phase in golden.phases:
        source = source_of(golden, feeds=golden.feeds[phase])
        model = model_of(source, learn=STATISTICS_FROZEN if phase == "eval" and golden.statistics else [])
        same_bits(values_of(trained_at_once(golden, source, model)), values_of(trained(golden, source, model)))


def test_a_class_as_a_distribution_teaches_the_same_and_a_mixed_one_does_not():
    golden = GOLDENS["conv_ref"]
    source = source_of(golden)
    heads, tasks = {"head": Head()}, [softmax_of(CLASSES, source.cut)]
    mixed = graft(make_variants(source, False, ()), heads, tasks, mixed=True)
    whole = np.eye(CLASSES, dtype=np.float32)[golden.labels]
    plain = values_of(trained(golden, source, model_of(source)))
    close(values_of(trained(golden, source, mixed, targets=whole)), plain)
    halves = values_of(trained(golden, source, mixed, targets=0.5 * (whole + whole[::-1])))
    assert not np.allclose(halves["head/bias"], plain["head/bias"])
    # The evaluation is of classes still.
    mixed.forward(trained(golden, source, mixed, 0).arguments(golden.batch, {"head": golden.labels}))


@every_golden
def test_a_frozen_source_keeps_every_bit_while_the_head_learns(golden: Golden):
    phase = golden.phases[-1]  # in training the statistics would move if they could
    source = source_of(golden, feeds=golden.feeds[phase])
    model = model_of(source, stop_gradient=True)
    assert {*model.rates, *model.updated} == golden.head.keys()
    ours = values_of(trained(golden, source, model))
    head = {name: ours.pop(name) for name in golden.head}
    same_bits(ours, read_values(source))
    close(head, softmax_regression(golden.answer(phase, "features_2d"), golden.labels, golden.head))


def softmax_regression(features: np.ndarray, labels: np.ndarray, head: Arrays) -> Arrays:
    """The head after three steps of gradient descent, from the formula."""
    features = features.astype(np.float64)
    kernel, bias = head["head/kernel"].astype(np.float64), head["head/bias"].astype(np.float64)
    for _ in range(3):
        scores = np.exp(features @ kernel + bias)
        error = (scores / scores.sum(axis=1, keepdims=True) - np.eye(len(bias))[labels]) / len(labels)
        kernel, bias = kernel - RATE * features.T @ error, bias - RATE * error.sum(axis=0)
    return {"head/kernel": kernel, "head/bias": bias}


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_statistics_that_a_rule_freezes_stay_in_training(name: str):
    """Though the layers around them learn, on the statistics of the batch."""
    golden = GOLDENS[name]
    source = source_of(golden, feeds=golden.feeds["train"])
    ours = values_of(trained(golden, source, model_of(source, learn=STATISTICS_FROZEN)))
    pretrained = read_values(source)
    same_bits(*({name: values[name] for name in golden.statistics} for values in (ours, pretrained)))
    close(*({name: values[name] for name in golden.trainable} for values in (ours, after(golden, "train"))))


@every_golden
def test_each_variable_learns_at_the_rate_that_a_rule_gives_it(golden: Golden):
    first, second, *_ = golden.trainable
    rates = {first: 0.0, second: 0.5}
    rules = [[re.escape(name), rate] for name, rate in rates.items()]
    source = source_of(golden, feeds=golden.feeds["eval"])
    state = trained(golden, source, model_of(source, learn=[*rules, *STATISTICS_FROZEN[-1:]]), steps=1)
    before, ours = {**read_values(source), **golden.head}, values_of(state)
    assert ours[first].tobytes() == before[first].tobytes()
    moved = {
        name: rates.get(name, 1.0) * golden.answers[f"gradient/{name}"] for name in (*golden.trainable, *golden.head)
    }
    close({name: ours[name] for name in moved}, {name: before[name] - RATE * moved[name] for name in moved})
