"""Calls of functions, replaced by the nodes of what they call."""

from __future__ import annotations

import pytest

from finetune.graph import attr, constant, make_node
from finetune.protos import AttrValue, FunctionDef, WhileContextDef
from finetune.reading.variables import find_updates
from finetune.surgery.cut import cut, find_tensor, place_of
from finetune.surgery.functions import MOST_NODES, decided, inline, with_names
from tests.graphs import (
    FLOAT,
    INT,
    call,
    fed,
    function,
    graph,
    inner,
    loop_graph,
    meta_of,
    node,
    refusal,
    stored,
    variable,
    with_functions,
)

TWICE = function("twice", ["t"], {"out": "sum:z:0"}, inner("sum", "AddV2", "t", "t"))
SPLIT = function(
    "split",
    ["t"],
    {"high": "top:values:0", "where": "top:indices:0"},
    constant("k", 1, INT),
    inner("top", "TopKV2", "t", "k:output:0"),
)


def inputs(source, name: str) -> list[str]:
    return list(source.nodes[name].input)


def test_a_call_becomes_the_nodes_of_its_function():
    source = with_functions(graph(fed("x", 3), call("call", "twice", "x"), node("out", "Relu", "call")), TWICE)
    before = stored(source)
    after = inline(source)
    assert list(after.nodes) == ["x", "call/sum", "call", "out"]
    assert (inputs(after, "call/sum"), inputs(after, "call"), inputs(after, "out")) == (
        ["x", "x"],
        ["call/sum"],
        ["call"],
    )
    assert (after.nodes["call"].op, attr(after.nodes["call"], "T").type) == ("Identity", FLOAT)
    assert stored(source) == before


def test_a_graph_without_functions_stays_as_it_is():
    source = graph(fed("x", 3), node("out", "Relu", "x"))
    assert inline(source) is source


def test_a_function_may_be_called_by_its_name_as_an_op():
    source = with_functions(graph(fed("x", 3), node("call", "twice", "x"), node("out", "Relu", "call")), TWICE)
    assert inputs(inline(source), "call/sum") == ["x", "x"]


def test_functions_in_functions_are_unfolded_too():
    outer = function(
        "outer", ["a"], {"out": "again:output:0"}, call("once", "twice", "a"), call("again", "twice", "once:output:0")
    )
    after = inline(with_functions(graph(fed("x", 3), call("call", "outer", "x")), outer, TWICE))
    assert inputs(after, "call/again/sum") == ["call/once", "call/once"]
    assert inputs(after, "call") == ["call/again"]


def test_of_several_outputs_each_has_a_node_and_keeps_its_name():
    nodes = [
        fed("x", 3),
        call("call", "split", "x", results=(FLOAT, INT)),
        node("out", "Relu", "call"),
        node("at", "Neg", "call:1"),
    ]
    after = inline(with_functions(graph(*nodes), SPLIT))
    assert (inputs(after, "call/output_0"), inputs(after, "call/output_1")) == (["call/top"], ["call/top:1"])
    assert (inputs(after, "out"), inputs(after, "at")) == (["call/output_0"], ["call/output_1"])
    assert inputs(after, "call") == ["call/output_0", "call/output_1"]
    assert [find_tensor(after, name, "cut") for name in ("call", "call:1")] == ["call/output_0:0", "call/output_1:0"]
    assert refusal(find_tensor, after, "call:2", "cut").what == "'call' has 2 outputs, no 'call:2'"
    assert "call" not in cut(after, ["out"]).nodes


def test_a_part_of_a_graph_has_the_names_of_the_outputs_that_are_in_it():
    calls = [call(f"call{n}", "split", "x", results=(FLOAT, INT)) for n in range(3)]
    readers = [node("both", "Pair", "call0", "call0:1"), node("one", "Relu", "call1"), node("two", "Neg", "call2:1")]
    whole = inline(with_functions(graph(fed("x", 3), *calls, *readers), SPLIT))
    after = with_names(cut(whole, ["both", "one", "two"]), whole)
    assert list(after.nodes)[-2:] == ["call0", "call1"]
    assert inputs(after, "call0") == ["call0/output_0", "call0/output_1"]
    assert (inputs(after, "call1"), list(attr(after.nodes["call1"], "T").list.type)) == (["call1/output_0"], [FLOAT])
    assert find_tensor(after, "call0:1", "cut") == "call0/output_1:0"


def test_the_file_says_how_ops_are_defined_that_are_in_no_list():
    unknown = function("own", ["t"], {"out": "mine:second:0"}, inner("mine", "MyOp", "t"))
    source = with_functions(graph(fed("x", 3), call("call", "own", "x")), unknown)
    assert inline(source).nodes["call"].op == "PartitionedCall"  # which output that is, nobody knows
    defined = with_functions(graph(fed("x", 3), call("call", "own", "x")), unknown, MyOp=["first", "second"])
    assert inputs(inline(defined), "call") == ["call/mine:1"]


def test_attributes_of_the_function_have_the_values_of_the_call():
    generic = FunctionDef()
    generic.CopyFrom(TWICE)
    generic.signature.attr.add(name="K", type="type")
    generic.signature.input_arg[0].type_attr = generic.signature.output_arg[0].type_attr = "K"
    generic.node_def[0].attr["T"].placeholder = "K"
    by_attribute = call("call", "twice", "x")
    by_attribute.attr["f"].func.attr["K"].type = INT
    for each in (by_attribute, make_node("call", "twice", ["x"], K={"type": INT})):
        after = inline(with_functions(graph(fed("x", dtype=INT), each), generic))
        assert [attr(after.nodes[n], "T").type for n in ("call/sum", "call")] == [INT, INT]


def test_order_is_kept():
    counting = function(
        "counting",
        ["v", "t"],
        {"out": "t"},
        constant("one", 1.0),
        inner("up", "AssignAddVariableOp", "v", "one:output:0"),
    )
    counting.control_ret["up"] = "up"
    handle = variable("v", resource=True)
    nodes = [
        handle,
        fed("x", 3),
        make_node("first", "NoOp"),
        call("call", "counting", "v", "x", "^first"),
        node("out", "Relu", "call"),
    ]
    after = inline(with_functions(graph(*nodes), counting))
    assert (inputs(after, "call/one"), inputs(after, "call")) == (["^first"], ["x", "^first", "^call/up"])
    # And so an update that the source makes in a function is found.
    assert [(u.node, u.variable) for u in find_updates(meta_of(after), after, cut(after, ["out", "v"]))] == [
        ("call/up", "v")
    ]


def test_a_call_in_a_loop_of_tensorflow_1_leaves_its_nodes_in_the_loop():
    shifted = function(
        "shifted", ["t"], {"out": "sum:z:0"}, constant("one", 1.0), inner("sum", "AddV2", "t", "one:output:0")
    )
    source = loop_graph(call("loop/call", "shifted", "loop/x"), product=("loop/call", "loop/w"))
    context = WhileContextDef()
    context.CopyFrom(source.whiles[0])
    context.values_def.values.append("loop/call:0")
    after = inline(with_functions(graph(*source.nodes.values(), whiles=[context]), shifted))
    assert inputs(after, "loop/call/one") == ["^loop/x"]
    below = cut(after, ["out"])
    assert inputs(below, "loop/call/one") == ["^loop/x"]
    assert place_of(below, "loop/call/sum:0") == "loop/while_context"


def test_loops_of_tensorflow_1_in_functions_have_frames_of_their_own():
    entering = function(
        "entering", ["t"], {"out": "in:output:0"}, inner("in", "Enter", "t", frame_name={"s": b"frame"})
    )
    after = inline(with_functions(graph(fed("x"), call("a", "entering", "x"), call("b", "entering", "x")), entering))
    assert [attr(after.nodes[f"{n}/in"], "frame_name").s for n in "ab"] == [b"a/frame", b"b/frame"]


def test_a_taken_name_is_avoided():
    source = with_functions(graph(fed("x"), fed("call/sum"), call("call", "twice", "x")), TWICE)
    after = inline(source)
    assert after.nodes["call/sum"].op == "Placeholder"
    assert inputs(after, "call") == ["call_/sum"]


def test_a_function_that_calls_itself_stays_a_call():
    endless = function("endless", ["t"], {"out": "again:output:0"}, call("again", "endless", "t"))
    source = with_functions(graph(fed("x"), call("call", "endless", "x")), endless)
    assert inline(source).nodes["call"].op == "PartitionedCall"


def test_functions_that_would_unfold_without_bound_are_refused_at_once():
    levels = [
        function(
            f"f{n}", ["t"], {"out": "b:output:0"}, call("a", f"f{n + 1}", "t"), call("b", f"f{n + 1}", "a:output:0")
        )
        for n in range(40)
    ]
    last = function("f40", ["t"], {"out": "t"})
    source = with_functions(graph(fed("x"), call("call", "f0", "x")), *levels, last)
    assert f"more than {MOST_NODES:,} nodes" in refusal(inline, source).what


def test_functions_that_are_nested_too_deep_are_refused():
    chain = [function(f"f{n}", ["t"], {"out": "a:output:0"}, call("a", f"f{n + 1}", "t")) for n in range(2000)]
    source = with_functions(graph(fed("x"), call("call", "f0", "x")), *chain, function("f2000", ["t"], {"out": "t"}))
    assert "nested more than 50 deep" in refusal(inline, source).what


@pytest.mark.parametrize("op", ["If", "StatelessIf"])
def test_a_decided_branch_stands_where_its_choice_stood(op: str):
    choice = make_node("if", op, ["p", "x"], Tin={"list": AttrValue.ListValue(type=[FLOAT])})
    choice.attr["then_branch"].func.name = "split"
    nodes = [constant("p", True), fed("x", 3), choice, node("out", "Neg", "if:1")]
    source = with_functions(graph(*nodes), SPLIT)
    after = decided(source, {"if": choice.attr["then_branch"].func})
    assert inputs(after, "if") == ["if/top", "if/top:1"]
    assert (after.nodes["if"].op, inputs(after, "out")) == ("IdentityN", ["if:1"])  # a barrier at `if:1` still holds
    assert decided(source, {}) is source
