"""Where a graph could be cut, for graphs that each have one trait of real ones."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.graph import Graph, changed, constant, make_node
from finetune.inspecting.candidates import Candidate, candidates
from finetune.inspecting.flow import flow_of
from tests.graphs import FLOAT, INT, fed, graph, loop_graph, node, shapes, variable


def layer(name: str, source: str, inputs: int = 8, outputs: int = 8, weights: str = "", **attrs: Any) -> list[Any]:
    """`name` is the activation of a dense layer; `weights` are those of another layer, if shared."""
    own = [] if weights else [variable(f"{name}/w", inputs, outputs)]
    matmul = node(f"{name}/mm", "MatMul", source, weights or f"{name}/w")
    return [*own, matmul, node(name, "Relu", f"{name}/mm", **attrs)]


def logits(source: str, name: str = "logits", weights: str = "", **attrs: Any) -> list[Any]:
    own = [] if weights else [variable(f"{name}/w", 8, 3)]
    matmul = node(name, "MatMul", source, weights or f"{name}/w", **attrs)
    return [*own, matmul, node(f"{name}/softmax", "Softmax", name)]


def found(source: Graph) -> list[Candidate]:
    sizes = {name: 64 for name, n in source.nodes.items() if n.op == "VariableV2"}
    inputs = [name for name, n in source.nodes.items() if n.op == "Placeholder"]
    return candidates(flow_of(source, sizes, inputs), sizes)


def tensors(source: Graph) -> list[str]:
    return [c.tensor for c in found(source)]


def by_name(source: Graph) -> dict[str, Candidate]:
    return {c.tensor: c for c in found(source)}


def test_the_last_activation_comes_first_and_the_old_answer_last():
    source = graph(fed("x", None, 8), *layer("a", "x"), *layer("b", "a"), *logits("b"))
    assert tensors(source) == ["b:0", "a:0", "logits:0"]
    assert all(c.dominates for c in found(source))
    assert by_name(source)["b:0"].parameters == 128


def test_a_branch_beside_a_shortcut_does_not_dominate():
    source = graph(
        fed("x", None, 8), *layer("a", "x"), *layer("b", "a"), node("sum", "AddV2", "a", "b"), *logits("sum")
    )
    dominating = {name: c.dominates for name, c in by_name(source).items()}
    assert dominating == {"sum:0": True, "a:0": True, "b:0": False, "logits:0": True}
    assert tensors(source)[0] == "sum:0"


def test_data_that_is_put_beside_features_passes_beside_them():
    source = graph(fed("x", None, 8), *layer("a", "x"), node("both", "ConcatV2", "a", "x"), *logits("both"))
    assert not by_name(source)["a:0"].dominates


def test_an_input_that_only_joins_the_features_is_done_without():
    joined = node("joined", "ConcatV2", "b", "label")
    source = graph(
        fed("x", None, 8), fed("label", None, 2), *layer("a", "x"), *layer("b", "a"), joined, *layer("c", "joined"),
        *logits("c"),
    )  # fmt: skip
    first = found(source)[0]
    assert (first.tensor, first.sources, first.dominates) == ("b:0", {"x"}, False)
    assert {"c:0", "joined:0"} < set(tensors(source))


def test_an_input_that_meets_weights_of_its_own_is_kept():
    joined = node("joined", "ConcatV2", "b", "words")
    source = graph(
        fed("x", None, 8), fed("text", None, 2), *layer("a", "x"), *layer("b", "a"), *layer("words", "text"), joined,
        *layer("c", "joined"), *logits("c"),
    )  # fmt: skip
    assert tensors(source)[0] == "c:0"


def test_a_network_applied_to_generated_data_too_is_cut_where_it_takes_real_data():
    source = graph(
        fed("x", None, 8), fed("z", None, 8), *layer("real", "x"), *logits("real"), *layer("g", "z"),
        *layer("fake", "g", weights="real/w"), *logits("fake", "of_fake", "logits/w"),
    )  # fmt: skip
    assert found(source)[0].sources == {"x"}


def towers(*more: Any) -> Graph:
    return graph(
        fed("x0", None, 8), fed("x1", None, 8), *layer("t0", "x0"), *logits("t0"),
        *layer("t1", "x1", weights="t0/w"), *logits("t1", "logits_1", "logits/w"), *more,
    )  # fmt: skip


def test_of_several_towers_the_first_is_proposed():
    assert tensors(towers())[0] == "t0:0"


def test_of_one_for_training_and_one_for_use_the_latter_is_proposed():
    assert tensors(towers(node("gradients/logits_grad/MatMul", "MatMul", "t0", "logits")))[0] == "t1:0"


def test_the_steps_of_a_recurrent_network_are_no_towers():
    source = graph(
        fed("x", None, 8), *layer("h0", "x"), *logits("h0"),
        *layer("h1", "h0", weights="h0/w"), *logits("h1", "logits_1", "logits/w"),
    )  # fmt: skip
    assert tensors(source)[0] == "h1:0"


@pytest.mark.parametrize("compare", ["Sub", "SquaredDifference", "Mul"])
def test_the_targets_of_a_loss_are_no_data(compare: str):
    source = graph(
        fed("x", None, 8), fed("y", None, 3), *layer("a", "x"), variable("w", 8, 3), node("out", "MatMul", "a", "w"),
        node("error", compare, "y", "out"), node("squared", "Square", "error"), node("mean", "Mean", "squared"),
    )  # fmt: skip
    assert (found(source)[0].tensor, found(source)[0].dominates) == ("a:0", True)
    assert all(c.sources == {"x"} for c in found(source))


def test_logits_beside_zeros_are_the_logits():
    zeros = [node("zeros", "ZerosLike", "out"), node("two", "ConcatV2", "zeros", "out"), node("p", "Softmax", "two")]
    source = graph(fed("x", None, 8), variable("w", 8, 1), node("out", "MatMul", "x", "w"), *zeros)
    assert tensors(source) == ["out:0"]


def test_one_number_for_an_example_comes_after_features():
    narrow = node("scores", "Sum", "b", _output_shapes=shapes([None, 1]))
    source = graph(fed("x", None, 8), *layer("a", "x"), *layer("b", "a"), narrow, *logits("scores"))
    assert tensors(source)[0] == "b:0"


def test_a_width_that_the_file_does_not_know_does_no_harm():
    wide = shapes([None, None])
    source = graph(fed("x", None, 8), *layer("a", "x"), *layer("b", "a", _output_shapes=wide), *logits("b"))
    assert tensors(source)[0] == "b:0"


def test_the_result_of_dropout_can_be_cut_through_a_reshape():
    source = graph(
        fed("x", None, 8), *layer("a", "x"), node("noise", "RandomUniform"), node("at_least", "GreaterEqual", "noise"),
        node("mask", "Cast", "at_least"), node("scaled", "Mul", "a", "a"), node("dropped", "Mul", "scaled", "mask"),
        node("flat", "Reshape", "dropped"), *logits("flat"),
    )  # fmt: skip
    assert "dropped:0" in tensors(source)[:3]
    assert "scaled:0" not in tensors(source)


def test_what_a_loop_gives_is_offered_early_for_nothing_nearer_can_be_cut():
    source = loop_graph()
    nodes = {**source.nodes, "loop/Mul": changed(source.nodes["loop/Mul"], op="MatMul")}
    encoder = [fed("data", None, 3), *layer("a", "data"), *layer("b", "a"), *layer("c", "b"), *layer("x", "c")]
    whole = source.with_nodes({**{n.name: n for n in encoder}, **{n: nodes[n] for n in nodes if n != "x"}})
    assert "out:0" in tensors(whole)[:3]


def test_rows_that_are_steps_of_an_example_come_last():
    """Steps are told by recorded shapes, or else by the loop that gathered them."""
    rows = [constant("to", [-1, 8]), node("rows", "Reshape", "steps", "to"), *layer("b", "rows"), *logits("b")]
    for op, first in (("TensorArrayGatherV3", "steps:0"), ("Relu", "b:0")):
        before = [node("made", op, "a"), node("steps", "Transpose", "made", "to")]
        assert tensors(graph(fed("x", None, 8), *layer("a", "x"), *before, *rows))[0] == first


def test_noise_is_no_feature():
    size = make_node("size", "Shape", ["a"], T={"type": FLOAT}, out_type={"type": INT})
    noise = [size, make_node("drawn", "RandomUniform", ["size"], dtype={"type": FLOAT}, T={"type": INT})]
    mask = [node("shifted", "Add", "keep", "drawn"), node("mask", "Floor", "shifted")]
    dropped = [constant("keep", 0.5, FLOAT), *noise, *mask, node("kept", "Mul", "a", "mask")]
    known = tensors(graph(fed("x", None, 8), *layer("a", "x"), *dropped, *logits("kept")))
    assert "kept:0" in known
    assert not {"drawn:0", "shifted:0", "mask:0"} & set(known)
