"""The library of a graph: who calls whom, the two ways of writing a function, and names."""

from __future__ import annotations

from finetune.graph import constant, make_node, to_meta
from finetune.protos import AttrValue
from finetune.surgery.bodies import branches, called, callees_first, check_recursion, closed, opened, renamed
from tests.graphs import INT, call, fed, function, graph, inner, refusal, with_functions

BEST = function(
    "best",
    ["t"],
    {"where": "top:indices:0", "same": "t"},
    constant("k", 1, INT),
    inner("top", "TopKV2", "t", "k:output:0"),
    inner("waits", "NoOp", "^top"),
    where=INT,
)
BEST.control_ret["done"] = "waits"
BEST.arg_attr[0].attr["_user_specified_name"].s = b"t"


def test_functions_are_called_by_op_or_by_attribute():
    many = AttrValue.ListValue(func=[{"name": "a"}, {"name": "b"}])
    assert called(make_node("n", "f"), {"f"}) == ["f"]
    assert called(make_node("n", "Case", branches={"list": many}), {"a", "b"}) == ["a", "b"]
    assert called(make_node("n", "Case", branches={"list": many}), set()) == []


def test_branches_are_in_the_order_in_which_the_op_has_them():
    node = make_node("n", "If")
    node.attr["else_branch"].func.name, node.attr["then_branch"].func.name = "no", "yes"
    assert [f.name for f in branches(node)] == ["yes", "no"]


def test_an_order_in_which_callees_are_first_leaves_out_circles():
    functions = {
        "outer": function("outer", [], {}, call("c", "inner")),
        "inner": function("inner", [], {}),
        "circle": function("circle", [], {}, call("c", "circle")),
        "above": function("above", [], {}, call("c", "circle")),
    }
    order, endless = callees_first(functions)
    assert order == ["inner", "outer"]
    assert endless == {"circle": {"circle"}, "above": {"circle"}}
    assert "circle → circle" in refusal(check_recursion, with_functions(graph(), *functions.values())).what


def test_a_body_reads_as_a_graph_and_is_written_back_the_same():
    source = with_functions(graph(), BEST)
    body = opened(BEST, source)
    assert body is not None
    assert body.arguments == ["t"]
    assert (list(body.nodes["top"].input), dict(body.returns)) == (["t", "k"], {"where": "top:1", "same": "t"})
    assert closed(body, "best", BEST) == BEST


def test_what_nothing_explains_is_not_opened():
    lists = function("lists", ["t"], {"out": "t"})
    lists.signature.input_arg[0].number_attr = "N"
    for each in (
        function("unknown", ["t"], {"out": "n:b:0"}, inner("n", "NobodyKnowsThis", "t")),
        function("dangling", [], {"out": "gone:output:0"}),
        function("misspelt", ["t"], {"out": "n:output"}, inner("n", "Identity", "t")),
        function("twice", ["t"], {"out": "t"}, inner("t", "Identity", "t")),
        function("returns nothing", ["t"], {}),
        lists,
    ):
        if each.signature.name == "returns nothing":
            each.signature.output_arg.add(name="out")
        assert opened(each, with_functions(graph(), each)) is None, each.signature.name


def test_functions_get_other_names_wherever_they_are_named():
    outer = function("outer", ["t"], {"out": "b:out:0"}, call("a", "best", "t"), inner("b", "best", "a:output:0"))
    source = with_functions(graph(fed("x"), call("call", "outer", "x")), outer, BEST)
    definition = to_meta(source).graph_def
    new = renamed(definition, "_1")
    assert [f.signature.name for f in new.library.function] == ["outer_1", "best_1"]
    assert new.node[1].attr["f"].func.name == "outer_1"
    a, b = new.library.function[0].node_def
    assert (a.attr["f"].func.name, b.op) == ("best_1", "best_1")
    assert renamed(new, "") == new
    assert definition == to_meta(source).graph_def
