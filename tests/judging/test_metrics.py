from __future__ import annotations

import importlib.util
import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as truth

from finetune.judging.metrics import BY_LOSS, MANY, ONE, VALUES, check, chosen, measure
from tests.graphs import refusal

RANDOM = np.random.default_rng(3)
LABELS = RANDOM.integers(0, 4, 300)
SHARES = RANDOM.dirichlet(np.ones(4), 300) * 0.7 + 0.3 * np.eye(4)[np.where(RANDOM.random(300) < 0.6, LABELS, 0)]
GUESS = SHARES.argmax(axis=1)
HOT = (RANDOM.random((200, 5)) < 0.3).astype(np.float32)
CHANCES = np.clip(HOT * 0.3 + RANDOM.random((200, 5)) * 0.7, 0, 1)
NUMBERS = RANDOM.normal(size=(150, 3))
SAID = NUMBERS + RANDOM.normal(size=(150, 3))


def one_hot_auc(average):
    return truth.roc_auc_score(np.eye(4)[LABELS], SHARES, average=average)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", truth.accuracy_score(LABELS, GUESS)),
        ("top2", truth.top_k_accuracy_score(LABELS, SHARES, k=2)),
        ("top3", truth.top_k_accuracy_score(LABELS, SHARES, k=3)),
        ("balanced_accuracy", truth.balanced_accuracy_score(LABELS, GUESS)),
        ("f1_macro", truth.f1_score(LABELS, GUESS, average="macro")),
        ("auc", truth.roc_auc_score(LABELS, SHARES, multi_class="ovr")),
        ("log_loss", truth.log_loss(LABELS, SHARES)),
        ("brier", np.square(SHARES - np.eye(4)[LABELS]).sum() / 300),
        ("mcc", truth.matthews_corrcoef(LABELS, GUESS)),
        ("kappa", truth.cohen_kappa_score(LABELS, GUESS)),
    ],
)
def test_of_one_class_an_example(name, expected):
    assert measure(name, "softmax", LABELS, SHARES) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("f1_micro", truth.f1_score(HOT, CHANCES >= 0.5, average="micro")),
        ("f1_macro", truth.f1_score(HOT, CHANCES >= 0.5, average="macro")),
        ("average_precision", truth.average_precision_score(HOT, CHANCES, average="macro")),
        ("auc", truth.roc_auc_score(HOT, CHANCES, average="macro")),
        ("subset_accuracy", truth.accuracy_score(HOT, CHANCES >= 0.5)),
        ("hamming", truth.hamming_loss(HOT, CHANCES >= 0.5)),
        ("log_loss", np.mean([truth.log_loss(HOT[:, i], CHANCES[:, i]) for i in range(5)])),
        ("brier", np.mean([truth.brier_score_loss(HOT[:, i], CHANCES[:, i]) for i in range(5)])),
    ],
)
def test_of_any_number_of_classes(name, expected):
    assert measure(name, "sigmoid", HOT, CHANCES) == pytest.approx(expected, rel=1e-6)


def test_of_numbers():
    from scipy.stats import pearsonr, spearmanr

    expected = {
        "mae": truth.mean_absolute_error(NUMBERS, SAID),
        "rmse": math.sqrt(truth.mean_squared_error(NUMBERS, SAID)),
        "r2": truth.r2_score(NUMBERS, SAID),
        "median_ae": truth.median_absolute_error(NUMBERS, SAID),
        "pearson": np.mean([pearsonr(NUMBERS[:, i], SAID[:, i]).statistic for i in range(3)]),
        "spearman": np.mean([spearmanr(NUMBERS[:, i], SAID[:, i]).statistic for i in range(3)]),
    }
    assert {name: measure(name, "huber", NUMBERS, SAID) for name in VALUES} == pytest.approx(expected, rel=1e-12)


def test_the_calibration_error_is_the_mean_distance_of_confidence_from_accuracy():
    # Of ten that are 80 % sure six are right; of five that are wholly sure all are.
    outputs = np.array([[0.8, 0.2]] * 10 + [[1.0, 0.0]] * 5)
    targets = np.array([0] * 6 + [1] * 4 + [0] * 5)
    assert measure("ece", "softmax", targets, outputs) == pytest.approx(0.2 * 10 / 15)


def test_the_best_k_of_no_more_than_k_classes_always_have_the_right_one():
    assert measure("top5", "softmax", LABELS, SHARES) == 1.0
    assert measure("top4", "softmax", LABELS, SHARES) == 1.0


def test_of_equal_outputs_the_first_comes_first_as_in_the_prediction():
    targets, outputs = np.array([0, 1, 2]), np.full((3, 3), 1 / 3)
    assert measure("accuracy", "softmax", targets, outputs) == measure("top1", "softmax", targets, outputs) == 1 / 3
    assert measure("top2", "softmax", targets, outputs) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("loss", "table"), BY_LOSS.items())
def test_one_example_and_outputs_that_are_no_numbers_raise_and_warn_nothing(loss, table):
    targets = np.array([1]) if table is ONE else np.ones((1, 3), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in table:
            measure(name, loss, targets, np.array([[0.2, 0.7, 0.1]], np.float32))
            assert math.isnan(measure(name, loss, targets, np.array([[0.2, np.nan, 0.1]], np.float32)))


def test_where_all_examples_have_one_class_ranking_is_not_defined_and_the_rest_is():
    targets, outputs = np.ones(20, int), np.random.default_rng(0).dirichlet(np.ones(3), 20)
    found = {name: measure(name, "softmax", targets, outputs) for name in ONE}
    assert {name for name, value in found.items() if math.isnan(value)} <= {"auc", "kappa"}
    assert math.isnan(found["auc"])
    assert found["balanced_accuracy"] == found["accuracy"]


def test_a_class_that_no_held_out_example_has_is_left_out_of_the_mean():
    hot = np.concatenate([HOT, np.zeros((200, 1), np.float32)], axis=1)
    chances = np.concatenate([CHANCES, np.full((200, 1), 0.4)], axis=1)
    for name in ("auc", "average_precision"):
        assert measure(name, "sigmoid", hot, chances) == measure(name, "sigmoid", HOT, CHANCES)


def test_without_names_there_are_the_usual_ones_that_need_numpy_only():
    usual = {loss: chosen([], loss) for loss in BY_LOSS}
    assert usual["softmax"] == ("accuracy",)
    assert usual["sigmoid"] == ("f1_micro",)
    assert usual["squared"] == ("mae", "rmse")
    assert not any(BY_LOSS[loss][name].is_asked for loss, names in usual.items() for name in names)


def test_each_head_takes_the_metrics_that_it_has():
    names = ["kappa", "mae", "top3", "auc"]
    assert chosen(names, "softmax") == ("kappa", "top3", "auc")
    assert chosen(names, "sigmoid") == ("auc",)
    assert chosen(names, "huber") == ("mae",)
    check(names, ["softmax", "huber"])


def test_a_metric_that_no_head_has_is_refused_with_those_that_there_are():
    error = refusal(check, ["accuracy", "mae"], ["softmax"])
    assert error.where == "eval.metrics"
    assert error.what.startswith("'mae' is no metric of head.loss=softmax; there are accuracy, balanced_accuracy, ")
    assert error.what.endswith(", top5")
    assert refusal(check, ["top5"], ["sigmoid"]).what.endswith(", ".join(MANY))
    assert "did you mean f1_macro" in refusal(check, ["f1_makro"], ["softmax"]).todo
    assert refusal(check, ["top0"], ["softmax"]).where == "eval.metrics"


def test_without_scikit_learn_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check(["accuracy", "top5", "log_loss"], ["softmax"])
    error = refusal(check, ["mcc"], ["softmax"])
    assert (error.status, error.todo) == (2, "pip install 'finetune[report]'")
