"""What a head learns is what its words and the columns of the examples say, or an error that names both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune.examples.data import Examples
from finetune.examples.tasks import Task, make_task, weighed, with_targets
from finetune.recipe import Head
from tests.graphs import refusal


def examples(column: Any) -> Examples:
    values = np.asarray(column, object) if isinstance(column, list) and isinstance(column[0], str) else np.array(column)
    rows = [str(i) for i in range(len(values) if values.ndim else 1)]
    return Examples(rows, {"labels": values}, rows)


def made(column: Any, where: str = "d.npz", **words: Any) -> Task:
    return make_task("head", Head(**words), "fc7:0", "labels", examples(column), where)


def targets(task: Task, column: Any, where: str = "d.npz") -> np.ndarray:
    return with_targets(examples(column), [task], where).targets["head"]


# ---- one class each


def test_names_are_classes_in_alphabetical_order():
    task = made(["dog", "cat", "dog"])
    assert task == made(np.array(["dog", "cat", "dog"]))
    assert (task.classes, task.outputs, task.is_exclusive) == (("cat", "dog"), 2, True)
    found = targets(task, ["dog", "cat", "dog"])
    assert (found.tolist(), found.dtype) == ([1, 0, 1], np.int64)


def test_numbers_are_classes_from_0():
    task = made(np.array([0, 2, 1], np.uint8))
    assert task.classes == ("0", "1", "2")
    found = targets(task, np.array([2, 0], np.uint8))
    assert (found.tolist(), found.dtype) == ([2, 0], np.int64)


def test_the_recipe_may_say_how_many_numbered_classes_there_are():
    assert made([0, 1], classes=5).outputs == 5


def test_the_recipe_and_the_named_classes_agree_on_their_number():
    assert made(["a", "b", "c"], classes=3).outputs == 3
    error = refusal(made, ["a", "b", "c"], classes=2)
    assert (error.where, error.todo) == ("head.classes", "set head.classes=3 or leave it out")
    assert error.what == "the recipe says 2, the data has 3: a, b, c"


def test_a_class_that_training_has_not_is_named():
    error = refusal(targets, made(["cat", "dog"]), ["dog", "cats"], "data.eval_path")
    assert (error.where, error.todo) == ("data.eval_path", "did you mean cat?")
    assert error.what == "there is a class that training has not: cats"
    assert refusal(targets, made(["x", "y"]), ["cats"]).todo == "the classes are x, y"


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (np.array([0.0, 1.0]), "float64 [2]"),
        (np.array([[1, 0], [0, 1]]), "int64 [2, 2]"),
        (np.array([True, False]), "bool [2]"),
        (np.array(1), "int64 []"),
    ],
)
def test_labels_are_one_integer_per_row(labels, shown):
    error = refusal(made, labels)
    assert (error.where, error.what, error.todo) == ("data.labels", f"labels are {shown}", "give one integer per row")


@pytest.mark.parametrize(("labels", "row", "bad"), [([0, 3, 1, 9], 1, 3), ([0, 1, 2, -1], 3, -1)])
def test_a_label_out_of_range_names_its_row_and_both_numbers(labels, row, bad):
    error = refusal(targets, made([0, 1, 2], classes=3), labels)
    count = sum(not 0 <= label < 3 for label in labels)
    assert (error.where, error.todo) == ("d.npz", "head.classes is 3")
    assert error.what == f"label {bad} in row {row} is not within 0..2 ({count} such rows)"


def test_labels_that_are_no_numbers_of_classes_are_refused():
    error = refusal(made, np.array([7, 1 << 60, 12]))
    assert error.what == f"label {1 << 60} in row 1 makes more classes than there are rows"
    assert error.todo == "number the classes from 0, or give head.classes"


# ---- any number of classes each


def test_several_names_stand_in_one_cell():
    task = made(["b|a", "", "c | a"], loss="sigmoid")
    assert task.classes == ("a", "b", "c")
    assert targets(task, ["b|a", "", "c | a"]).tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert "did you mean" not in str(refusal(targets, task, ["zebra"], "data.eval_path"))


def test_or_a_row_has_a_0_or_1_for_each_class():
    task = made(np.array([[0, 1], [1, 1]]), loss="sigmoid")
    found = targets(task, np.array([[0, 1], [1, 1]]))
    assert (found.tolist(), found.dtype) == ([[0, 1], [1, 1]], np.float32)
    assert "values other than 0 and 1" in refusal(made, np.array([[0, 2]]), loss="sigmoid").what


# ---- numbers


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
def test_numbers_are_learnt_as_they_are(loss: str):
    task = made(np.array([1.5, 2.5]), loss=loss)
    assert (task.classes, task.outputs) == ((), 1)
    assert targets(task, np.array([1.5, 2.5])).tolist() == [[1.5], [2.5]]
    assert made(np.ones((3, 4)), loss=loss).outputs == 4


def test_numbers_that_are_none_are_refused():
    error = refusal(made, np.array([1.0, np.nan, np.inf]), loss="squared")
    assert error.what == "'labels' is not finite in row 1 (2 such rows)"
    assert refusal(made, ["a"], loss="squared").what == "'labels' is object [1]"
    error = refusal(targets, made(np.ones((3, 4)), loss="squared"), np.ones((3, 2)))
    assert error.what == "'labels' has 2 values a row, training has 4"


# ---- class weights


def test_balanced_weights_are_those_of_scikit_learn():
    labels = ["a", "a", "a", "b"]
    task = made(labels)
    assert weighed(task, "balanced", targets(task, labels), "w").weights == pytest.approx((4 / (2 * 3), 4 / (2 * 1)))


def test_balanced_weights_of_several_classes_are_the_others_for_each_one():
    hot = np.array([[1, 0], [1, 1], [1, 0], [0, 0]])
    task = made(hot, loss="sigmoid")
    assert weighed(task, "balanced", targets(task, hot), "w").weights == pytest.approx((1 / 3, 3.0))


def test_weights_by_name():
    assert weighed(made(["cat", "dog"]), {"dog": 3}, np.array([0, 1]), "head.class_weights").weights == (1.0, 3.0)
    error = refusal(weighed, made(["cat", "dog"]), {"dogs": 3}, np.array([0, 1]), "head.class_weights")
    assert (error.where, error.what, error.todo) == (
        "head.class_weights",
        "there is no class 'dogs'",
        "did you mean dog?",
    )


# ---- names that the recipe gives


def named(column: Any, names: list[str]) -> Task:
    return make_task("head", Head(), "fc7:0", "labels", examples(column), names=names)


def test_the_recipe_may_give_the_names_and_their_order():
    task = named(["cat", "dog"], ["dog", "cat", "fox"])
    assert (task.classes, targets(task, ["cat", "dog"]).tolist()) == (("dog", "cat", "fox"), [1, 0])
    assert named([0, 1, 1], ["no", "yes"]).classes == ("no", "yes")
    error = refusal(named, ["cat", "dog"], ["cat", "dgo"])
    assert (error.where, error.todo) == ("data.classes", "did you mean dgo?")
    assert "label 2 in row 1" in refusal(targets, named([0, 1], ["no", "yes"]), [0, 2]).what
