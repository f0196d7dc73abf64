"""Names as TensorFlow writes them, and the names that a user may have meant."""

from __future__ import annotations

import time

import pytest

from finetune import names


@pytest.mark.parametrize(
    ("ref", "node", "port", "control"),
    [
        ("fc7", "fc7", 0, False),
        ("fc7:0", "fc7", 0, False),
        ("scope/split:12", "scope/split", 12, False),
        ("^scope/init", "scope/init", 0, True),
    ],
)
def test_an_input_is_a_node_an_output_and_whether_it_only_orders(ref, node, port, control):
    assert (names.node_of(ref), names.port_of(ref), names.is_control(ref)) == (node, port, control)


def test_the_first_output_is_written_without_its_number_inside_a_graph_only():
    assert names.input_ref("fc7:0") == names.input_ref("fc7") == "fc7"
    assert names.tensor_name("fc7") == names.tensor_name("fc7:0") == "fc7:0"
    assert names.input_ref("split:1") == names.tensor_name("split:1") == "split:1"


@pytest.mark.parametrize("text", ["fc7:a", "a:b:0", "a:0:0"])
def test_what_is_no_number_is_no_output(text):
    with pytest.raises(ValueError):
        names.port_of(text)


@pytest.mark.parametrize(
    ("meant", "known", "best"),
    [
        ("fc_7", ["fc6", "fc7", "conv1"], "fc7"),
        ("fc7", ["fc77", "vgg_16/fc7"], "vgg_16/fc7"),
        ("vgg_16/FC7", ["vgg_16/fc6", "vgg_16/fc7"], "vgg_16/fc7"),
        ("vgg/conv5/relu", ["vgg/conv1/Relu", "vgg/conv5/Relu"], "vgg/conv5/Relu"),
    ],
)
def test_the_nearest_name_is_the_one_that_was_meant(meant, known, best):
    assert best in names.nearest(meant, known)[:2]
    assert best in names.did_you_mean(meant, known)


def test_suggestions_are_few_and_none_is_made_up():
    many = [f"layer_{i}/relu" for i in range(50)]
    assert len(names.nearest("relu", many)) == 3
    assert names.nearest("zzz", many) == []
    assert names.did_you_mean("zzz", many) == ""
    assert names.nearest("a", []) == []


def test_a_name_is_suggested_once():
    assert names.nearest("fc7", ["a/fc7", "a/fc7"]) == ["a/fc7"]


def test_a_large_graph_is_searched_in_an_instant():
    many = [f"tower_{i}/conv/weights" for i in range(100_000)]
    start = time.perf_counter()
    assert names.nearest("tower_7/conv/wieghts", many) == []  # by its last part alone
    assert names.nearest("weights", many)[0] == "tower_0/conv/weights"
    assert time.perf_counter() - start < 1


def test_a_taken_name_gets_the_first_free_number():
    assert names.unused("head", []) == "head"
    assert names.unused("head", ["head", "head_1"]) == "head_2"
