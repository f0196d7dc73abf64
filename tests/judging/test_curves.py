from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as truth

from finetune.judging import curves

RANDOM = np.random.default_rng(5)
LABELS = RANDOM.integers(0, 3, 120)
GUESSES = np.where(RANDOM.random(120) < 0.6, LABELS, RANDOM.integers(0, 3, 120))
NAMES = ["a", "b", "c"]


def test_rows_are_what_is_and_columns_what_it_is_taken_for():
    assert curves.confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    expected = truth.confusion_matrix(LABELS, GUESSES, labels=range(3))
    assert np.array_equal(curves.confusion(LABELS, GUESSES, 3), expected)


def test_the_most_frequent_mistakes_come_first_and_right_ones_never():
    matrix = np.array([[50, 2, 0], [7, 50, 0], [0, 1, 50]])
    told = [(m["is"], m["taken_for"], m["examples"]) for m in curves.mistakes(matrix, NAMES)]
    assert told == [("b", "a", 7), ("a", "b", 2), ("c", "b", 1)]
    assert len(curves.mistakes(matrix, NAMES, most=2)) == 2


def test_the_table_of_classes_is_the_one_that_people_know():
    hot = np.eye(3, dtype=bool)
    expected = truth.classification_report(LABELS, GUESSES, target_names=NAMES, output_dict=True)
    for row in curves.by_class(hot[LABELS], hot[GUESSES], NAMES):
        theirs = expected[row["class"]]
        assert [row[k] for k in ("precision", "recall", "f1", "support")] == pytest.approx(
            [theirs[k] for k in ("precision", "recall", "f1-score", "support")]
        )


def test_what_is_not_divided_is_not_known():
    nothing, there = np.zeros((2, 1), bool), np.ones((2, 1), bool)
    (row,) = curves.by_class(nothing, nothing, ["a"])
    assert row == {"class": "a", "precision": None, "recall": None, "f1": None, "support": 0}
    (row,) = curves.by_class(there, nothing, ["a"])
    assert row == {"class": "a", "precision": None, "recall": 0.0, "f1": 0.0, "support": 2}


def test_a_bin_says_how_sure_and_how_right():
    outputs = np.array([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
    bins = curves.reliability(np.array([0, 0, 0, 0]), outputs)
    assert [(b["examples"], b["right"]) for b in bins] == [(1, 1.0), (2, 0.5), (1, 1.0)]
    assert bins[1]["confidence"] == pytest.approx(0.9)
    assert all(b["from"] < b["confidence"] <= b["to"] for b in bins)
    # Where classes do not exclude each other, every one of them counts.
    assert sum(b["examples"] for b in curves.reliability(np.zeros((4, 2)), outputs)) == 8


@pytest.mark.parametrize("digits", [1, 6])  # many equal scores, and none
def test_thresholds_give_the_curves_of_scikit_learn(digits):
    there = RANDOM.random(150) < 0.4
    scores = np.round(there * 0.3 + RANDOM.random(150) * 0.7, digits)
    found = curves.thresholds(there, scores)
    assert found
    rates, recalls, cuts = truth.roc_curve(there, scores, drop_intermediate=False)
    ours = np.array([[t["false_positive_rate"], t["recall"], t["threshold"]] for t in found])
    assert ours == pytest.approx(np.stack([rates, recalls, cuts], axis=1)[1:])  # theirs begins at an infinite one
    precisions, recalls, cuts = truth.precision_recall_curve(there, scores)
    ours = np.array([[t["precision"], t["recall"], t["threshold"]] for t in found])[::-1]
    assert ours == pytest.approx(np.stack([precisions[:-1], recalls[:-1], cuts], axis=1))


def test_a_long_curve_keeps_its_ends():
    there = RANDOM.random(5000) < 0.5
    found = curves.thresholds(there, RANDOM.random(5000))
    assert found
    assert len(found) == curves.POINTS
    assert (found[-1]["recall"], found[-1]["false_positive_rate"]) == (1.0, 1.0)
    assert found[0]["recall"] + found[0]["false_positive_rate"] < 0.01


def test_there_is_no_curve_where_all_examples_are_of_the_class_or_none():
    scores = np.array([0.1, 0.9])
    assert curves.thresholds(np.array([True, True]), scores) is None
    assert curves.thresholds(np.array([False, False]), scores) is None


def test_pairs_are_given_for_each_output():
    targets, outputs = np.arange(1000.0).reshape(500, 2), np.zeros((500, 2), np.float32)
    first, second = curves.pairs(targets, outputs)
    assert len(first) == len(second) == curves.POINTS
    assert (first[0], first[-1], second[0]) == ([0.0, 0.0], [998.0, 0.0], [1.0, 0.0])
