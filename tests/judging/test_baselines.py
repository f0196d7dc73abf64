from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from finetune.examples.compact import Digests
from finetune.examples.data import Examples
from finetune.examples.tasks import Task
from finetune.judging import baselines
from finetune.judging.baselines import constant, linear_probe, probe, some
from finetune.judging.metrics import measure

RANDOM = np.random.default_rng(11)


def classes_of(count, width, classes=3):
    """Features that are far from clear, but of which a linear model makes something."""
    labels = RANDOM.integers(0, classes, count)
    centres = np.random.default_rng(0).normal(size=(classes, width)) * 2 / width**0.5
    return (centres[labels] + RANDOM.normal(size=(count, width))).astype(np.float32), labels


def examples(count):
    return Examples([str(i) for i in range(count)], {}, [f"{(i * 7919) % 1000:04d}" for i in range(count)])


def test_the_constant_guess_is_the_majority_or_the_mean():
    labels = np.array([2, 2, 0, 1, 2])
    assert measure("accuracy", "softmax", labels, constant(labels, 3)) == 0.6
    assert constant(np.array([[1, 0], [0, 0]], np.float32), 2).tolist() == [[0.5, 0.0]] * 2
    numbers = RANDOM.normal(size=(20, 2)).astype(np.float32)
    assert measure("r2", "squared", numbers, constant(numbers, 2)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("count", "width"), [(200, 20), (40, 60)])  # both forms of the solution
def test_the_probe_is_ridge_regression_of_the_strength_that_cross_validation_chooses(count, width):
    features, _ = classes_of(count, width)
    numbers = (features[:, :2] @ np.ones((2, 2)) + RANDOM.normal(size=(count, 2))).astype(np.float32)
    elsewhere, _ = classes_of(30, width)
    found = linear_probe(features, numbers, elsewhere, "squared", 2)
    centred = features - features.mean(axis=0)
    unit = np.square(centred, dtype=np.float64).sum() / min(count, width)
    candidates = [RidgeCV([s * unit]).fit(features, numbers).predict(elsewhere) for s in baselines._STRENGTHS]
    distances = [np.abs(found - candidate).max() for candidate in candidates]
    assert min(distances) < 1e-4
    # The one chosen predicts about as well as the best of them.
    truth = elsewhere[:, :2] @ np.ones((2, 2))
    errors = [np.mean(np.square(candidate - truth)) for candidate in candidates]
    assert errors[int(np.argmin(distances))] <= 1.5 * min(errors)


def test_of_classes_it_gives_probabilities_that_may_be_believed():
    features, labels = classes_of(400, 30)
    elsewhere, truth = classes_of(400, 30)
    outputs = linear_probe(features, labels, elsewhere, "softmax", 3)
    assert np.allclose(outputs.sum(axis=1), 1.0)
    assert measure("accuracy", "softmax", truth, outputs) > 0.7
    assert measure("ece", "softmax", truth, outputs) < 0.12
    assert measure("log_loss", "softmax", truth, outputs) < 0.8 * np.log(3)


def test_of_any_number_of_classes_as_well():
    features, labels = classes_of(400, 10)
    hot = np.eye(3, dtype=np.float32)[labels]
    elsewhere, truth = classes_of(300, 10)
    outputs = linear_probe(features, hot, elsewhere, "sigmoid", 3)
    assert measure("auc", "sigmoid", np.eye(3)[truth], outputs) > 0.8
    assert measure("f1_micro", "sigmoid", np.eye(3)[truth], outputs) > 0.5


def test_odd_features_do_no_harm():
    labels = np.array([0, 1, 1, 0])
    same = np.ones((4, 3), np.float32)
    assert np.allclose(linear_probe(same, labels, same, "softmax", 2), 0.5)
    one = linear_probe(same[:1], labels[:1], same, "softmax", 2)
    assert one.argmax(axis=1).tolist() == [0] * 4
    assert linear_probe(np.full((4, 3), np.nan), labels, same, "softmax", 2) is None
    twice = np.repeat(RANDOM.normal(size=(4, 2)), 2, axis=1)  # columns that say the same
    assert np.isfinite(linear_probe(twice, labels, twice, "softmax", 2)).all()


def test_a_probe_learns_from_as_many_as_is_fair_whichever_come_first():
    many = examples(900)
    chosen = some(many, 16, 100)
    assert len(chosen) == 100
    backwards = some(many.where(np.arange(900) % 2 == 0), 16, 50)
    assert set(backwards.hashes) == set(sorted(many.hashes[::2])[:50])
    assert len(some(many, 16, 10_000)) == 900
    digests = Digests.of(bytes([number % 7] * 8).ljust(31) + bytes([number % 256]) for number in range(900))
    alike = replace(many, hashes=digests)  # in all that sorts fast
    assert sorted(some(alike, 16, 50).hashes) == sorted(digests)[:50]
    assert len(some(many, 1_000_000, 10_000)) == 100


def test_each_head_is_probed_on_its_own_features():
    tasks = (
        Task("kind", "cut:0", "kind", "softmax", ("a", "b", "c"), 3),
        Task("size", "cut:0", "size", "squared", (), 1),
    )
    features, labels = classes_of(300, 8)
    numbers = features[:, :1] * 2 + 1

    def given(asked):
        rows = np.array([int(s) for s in asked.sources])
        return {"kind/features": features[rows], "size/features": features[rows]}

    targets = {"kind": labels, "size": numbers}
    everything = Examples([str(i) for i in range(300)], {}, [f"{i:04d}" for i in range(300)], None, targets)
    training, held_out = everything.where(np.arange(300) < 200), everything.where(np.arange(300) >= 200)
    found = probe(given, training, held_out, tasks, 150, ["accuracy", "rmse"])
    assert set(found) == {"kind/accuracy", "size/rmse", "examples"}
    assert found["examples"] == 150
    assert found["kind/accuracy"] > 0.6
    assert found["size/rmse"] < 0.1
