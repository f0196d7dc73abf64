from __future__ import annotations

from finetune.pages.hardest import MOST, hardest

ONE = {
    "id": ["a", "b", "c", "d"],
    "label": ["x", "y", "x", "y"],
    "prediction": ["x", "x", "y", "y"],
    "probability": ["0.9", "0.6", "0.8", "0.55"],
    "loss": ["0.1", "0.9", "1.6", "nan"],
}


def test_the_most_wrong_are_wrong_and_the_least_sure_are_the_nearest_to_another_class():
    assert hardest(ONE, "", "softmax") == {"most wrong": [2, 1], "least sure": [3, 1, 2, 0]}


def test_of_any_number_of_classes_the_nearest_to_one_half_counts():
    columns = {**ONE, "probability": ["0.99 0.48", "0.9 0.1", "0.5 0.5", "0 1"], "loss": ["3", "1", "2", "4"]}
    named = {f"tags/{name}": column for name, column in columns.items()}
    assert hardest(named, "tags/", "sigmoid") == {"most wrong": [2, 1], "least sure": [2, 0, 1, 3]}


def test_numbers_are_only_more_or_less_wrong():
    columns = {**ONE, "probability": [""] * 4, "loss": ["0.1", "3", "2", "0"]}
    assert hardest(columns, "", "huber") == {"most wrong": [1, 2, 0, 3]}


def test_there_are_not_too_many_and_none_where_nothing_was_predicted():
    many = {name: column * 20 for name, column in ONE.items()}
    assert [len(lines) for lines in hardest(many, "", "softmax").values()] == [MOST, MOST]
    assert hardest({}, "", "softmax") == {}
