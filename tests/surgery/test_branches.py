"""Branches that a constant rules out go; all others stay."""

from __future__ import annotations

import pytest

from finetune.graph import constant, make_node, read_constant
from finetune.names import node_of
from finetune.protos import AttrValue
from finetune.surgery.branches import fold, scalar
from finetune.surgery.cut import cut
from finetune.surgery.specialize import with_constants
from tests.graphs import (
    BOOL,
    FLOAT,
    INT,
    cond_graph,
    every_golden,
    fed,
    function,
    golden,
    graph,
    inner,
    loop_graph,
    node,
    stored,
    with_functions,
)


def folded(training: bool, *outputs: str):
    return cut(fold(with_constants(cond_graph(), {"training:0": training})), outputs or ["out"])


# ---- the choice


@pytest.mark.parametrize(("training", "gone", "left"), [(True, "b", "a"), (False, "a", "b")])
def test_the_dead_branch_goes_with_its_variables(training, gone, left):
    nodes = folded(training).nodes
    assert left in nodes
    assert gone not in nodes


@pytest.mark.parametrize("training", [True, False])
def test_no_switch_and_no_merge_of_a_decided_cond_is_left(training):
    ops = {n.op for n in folded(training).nodes.values()}
    assert not ops & {"Switch", "RefSwitch", "Merge"}


def test_a_merge_becomes_the_branch_that_is_taken():
    assert list(folded(True).nodes["cond/Merge"].input) == ["cond/twice"]
    assert list(folded(False).nodes["cond/Merge"].input) == ["cond/mul_1"]
    assert folded(True).nodes["cond/Merge"].op == "Identity"


def test_what_a_branch_read_through_its_switch_it_reads_from_the_source():
    assert list(folded(True).nodes["cond/mul"].input) == ["x", "a"]
    assert list(folded(False).nodes["cond/mul_1"].input) == ["x", "b"]


@pytest.mark.parametrize(("training", "index"), [(True, 1), (False, 0)])
def test_the_number_of_the_branch_is_known(training, index):
    after = folded(training, "taken")
    (chosen,) = [n for n in after.nodes.values() if n.op == "Const"]
    assert read_constant(chosen) == index


@pytest.mark.parametrize("training", [True, False])
def test_every_input_of_a_folded_graph_is_in_it(training):
    after = fold(with_constants(cond_graph(), {"training:0": training}))
    assert {node_of(ref) for n in after.nodes.values() for ref in n.input} <= set(after.nodes)


def test_a_branch_on_the_data_stays():
    source = cond_graph()
    assert fold(source) is source


def test_a_loop_stays():
    source = loop_graph()
    assert fold(source) is source


def test_a_loop_in_a_dead_branch_goes():
    gate = [
        constant("no", False),
        node("gate", "Switch", "input", "no"),
        fed("input", None, 3),
    ]
    source = loop_graph()
    enter = node("loop/Enter_1", "Enter", "gate:1", frame_name={"s": b"loop/while_context"})
    merged = node("merged", "Merge", "gate", "out", N={"i": 2})
    nodes = {**source.nodes, "loop/Enter_1": enter, **{n.name: n for n in (*gate, merged)}}
    after = cut(fold(source.with_nodes(nodes)), ["merged"])
    assert list(after.nodes) == ["input", "merged"]
    assert after.whiles == ()


def test_only_the_decided_of_two_conds_goes():
    source = cond_graph()
    more = [
        fed("positive", dtype=BOOL),
        node("second", "Switch", "out", "positive"),
        node("less", "Neg", "second"),
        node("more", "Relu", "second:1"),
        node("last", "Merge", "less", "more", N={"i": 2}),
    ]
    nodes = {**source.nodes, **{n.name: n for n in more}}
    after = cut(fold(with_constants(source.with_nodes(nodes), {"training:0": False})), ["last"])
    assert after.nodes["last"].op == "Merge"
    assert after.nodes["cond/Merge"].op == "Identity"


def test_a_reader_may_stand_before_its_merge():
    source = cond_graph()
    nodes = dict(reversed(source.nodes.items()))
    after = fold(with_constants(source.with_nodes(nodes), {"training:0": True}))
    (index,) = after.nodes["taken"].input
    assert read_constant(after.nodes[index]) == 1


def test_the_source_graph_is_untouched():
    source = with_constants(cond_graph(), {"training:0": True})
    before = stored(source)
    fold(source)
    assert stored(source) == before


@every_golden
def test_a_golden_folds_to_a_graph_without_loose_ends(name):
    source = golden(name)
    below = cut(source.graph, [source.cut], [*source.inputs.values(), *source.feeds["eval"]])
    after = fold(with_constants(below, source.feeds["eval"]))
    assert {node_of(ref) for n in after.nodes.values() for ref in n.input} <= set(after.nodes)
    assert node_of(source.cut) in after.nodes


@pytest.mark.parametrize(("training", "read"), [(False, True), (True, False)])
def test_moving_statistics_are_read_in_evaluation_only(training, read):
    source = golden("bn_cond")
    below = cut(source.graph, [source.cut], ["is_training:0"])
    after = cut(fold(with_constants(below, {"is_training:0": training})), [source.cut])
    assert any(n.endswith("moving_mean") for n in after.nodes) is read


# ---- what is known of a predicate


def known(*nodes, ref: str = "p"):
    return scalar(graph(*nodes), ref)


def test_a_constant_is_known_through_what_only_passes_it_on():
    assert known(constant("c", True), node("i", "Identity", "c"), node("p", "StopGradient", "i")) is True
    assert known(constant("c", [[False]]), node("p", "Squeeze", "c")) is False
    assert known(constant("c", True), make_node("p", "PlaceholderWithDefault", ["c"])) is True


def test_a_placeholder_is_not_known():
    assert known(fed("p", dtype=BOOL)) is None
    assert known(fed("x", dtype=BOOL), node("p", "LogicalNot", "x")) is None
    assert known(constant("c", [True, False]), node("p", "Identity", "c")) is None
    assert known(ref="gone") is None


@pytest.mark.parametrize(
    ("op", "values", "result"),
    [
        ("LogicalNot", [False], True),
        ("LogicalAnd", [True, False], False),
        ("LogicalOr", [True, False], True),
        ("Equal", [1, 1], True),
        ("NotEqual", [1, 1], False),
        ("Greater", [2, 1], True),
        ("GreaterEqual", [1, 1], True),
        ("Less", [2, 1], False),
        ("LessEqual", [1, 1], True),
    ],
)
def test_logic_and_comparison_of_constants_are_known(op, values, result):
    constants = [constant(f"c{i}", value, BOOL if isinstance(value, bool) else INT) for i, value in enumerate(values)]
    assert bool(known(*constants, node("p", op, *[c.name for c in constants]))) is result


def test_a_circle_is_not_followed_for_ever():
    assert known(node("a", "Identity", "p"), node("p", "Identity", "a")) is None


# ---- branches of TensorFlow 2


def test_a_decided_choice_is_the_branch_that_it_takes_and_so_is_one_in_it():
    twice = function("twice", ["t"], {"out": "sum:z:0"}, inner("sum", "AddV2", "t", "t"))
    same = function("same", ["t"], {"out": "t"})
    again = inner("again", "If", "no:output:0", "t", Tin={"list": AttrValue.ListValue(type=[FLOAT])})
    again.attr["then_branch"].func.name, again.attr["else_branch"].func.name = "same", "twice"
    outer = function("outer", ["t"], {"out": "again:output:0"}, constant("no", False), again)
    for op, value, key in (("If", True, "then_branch"), ("StatelessIf", 0.0, "else_branch")):
        choice = make_node("if", op, ["p", "x"])
        choice.attr["then_branch"].func.name = choice.attr["else_branch"].func.name = "same"
        choice.attr[key].func.name = "outer"
        source = graph(constant("p", value), fed("x", 3), choice, node("out", "Relu", "if"))
        after = fold(with_functions(source, outer, twice, same))
        assert list(after.nodes["if/again/sum"].input) == ["x", "x"]
        assert [list(after.nodes[n].input) for n in ("if/again", "if")] == [["if/again/sum"], ["if/again"]]


@pytest.mark.parametrize(("index", "taken"), [(0, "a"), (1, "b"), (7, "b"), (-1, "b")])
def test_a_case_that_is_out_of_range_takes_the_last(index: int, taken: str):
    both = AttrValue.ListValue(func=[{"name": "a"}, {"name": "b"}])
    choice = make_node("case", "Case", ["i", "x"], branches={"list": both})
    functions = [function(n, ["t"], {"out": f"{n}_:y:0"}, inner(f"{n}_", "Neg", "t")) for n in "ab"]
    after = fold(with_functions(graph(constant("i", index, INT), fed("x", 3), choice), *functions))
    assert list(after.nodes["case"].input) == [f"case/{taken}_"]


def test_an_undecided_choice_stays():
    choice = make_node("if", "If", ["p", "x"])
    choice.attr["then_branch"].func.name = choice.attr["else_branch"].func.name = "same"
    source = with_functions(graph(fed("p", dtype=BOOL), fed("x", 3), choice), function("same", ["t"], {"out": "t"}))
    assert fold(source) is source
