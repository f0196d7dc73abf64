"""Variables as arguments: what becomes of them and of what reads them, in functions as well."""

from __future__ import annotations

import pytest

from finetune.graph import attr, constant, make_node, read_constant, shape_of
from finetune.names import node_of
from finetune.protos import AttrValue
from finetune.surgery.bodies import opened
from finetune.surgery.cut import cut, pruned
from finetune.surgery.parameters import as_parameters
from tests.graphs import (
    BOOL,
    FLOAT,
    INT,
    INT64,
    every_golden,
    fed,
    function,
    golden,
    graph,
    inner,
    node,
    refusal,
    shape,
    stored,
    variable,
    with_functions,
)

RESOURCE = {"T": {"type": 20}}


def after(*nodes):
    return as_parameters(graph(*nodes)).nodes


def test_a_variable_becomes_a_placeholder_of_its_name():
    nodes = after(variable("v", None, 3), variable("u", dtype=INT64, resource=True))
    assert [n.op for n in nodes.values()] == ["Placeholder", "Placeholder"]
    assert (attr(nodes["v"], "dtype").type, shape_of(attr(nodes["v"], "shape").shape)) == (FLOAT, (None, 3))
    assert attr(nodes["u"], "dtype").type == INT64


def test_references_become_values():
    ops = ["RefIdentity", "RefSwitch", "RefMerge", "RefEnter", "RefExit", "RefNextIteration"]
    nodes = after(variable("v", 3), *(node(op, op, "v") for op in ops))
    assert [nodes[op].op for op in ops] == [op.removeprefix("Ref") for op in ops]


def test_reading_a_resource_is_the_value_itself():
    nodes = after(
        variable("v", 3, resource=True),
        make_node("read", "ReadVariableOp", ["v", "^pivot"], dtype={"type": FLOAT}),
        fed("pivot", dtype=BOOL),
    )
    assert (nodes["read"].op, list(nodes["read"].input)) == ("Identity", ["v", "^pivot"])
    assert attr(nodes["read"], "T").type == FLOAT


def test_a_resource_may_come_through_a_loop_or_a_branch():
    nodes = after(
        variable("v", 3, dtype=2, resource=True),
        node("switch", "Switch", "v", "flag", **RESOURCE),
        node("enter", "Enter", "switch:1", **RESOURCE),
        make_node("read", "ReadVariableOp", ["enter"]),
        fed("flag", dtype=BOOL),
    )
    assert attr(nodes["switch"], "T").type == attr(nodes["enter"], "T").type == attr(nodes["read"], "T").type == 2


def test_looking_up_rows_of_a_resource_gathers_from_its_value():
    kinds = {"Tindices": {"type": INT64}, "dtype": {"type": FLOAT}, "batch_dims": {"i": 0}}
    nodes = after(
        variable("v", 9, 3, resource=True),
        fed("ids", None, dtype=INT64),
        make_node("rows", "ResourceGather", ["v", "ids", "^pivot"], **kinds),
        make_node("cells", "ResourceGatherNd", ["v", "ids"], **kinds),
        make_node("size", "VariableShape", ["v"], out_type={"type": INT64}),
        make_node("size32", "VariableShape", ["v"]),
    )
    assert (nodes["rows"].op, list(nodes["rows"].input)) == ("GatherV2", ["v", "ids", "rows/axis", "^pivot"])
    assert read_constant(nodes["rows/axis"]) == 0
    assert list(nodes["rows/axis"].input) == ["^pivot"]
    assert (nodes["cells"].op, list(nodes["cells"].input)) == ("GatherNd", ["v", "ids"])
    assert (nodes["size"].op, attr(nodes["size"], "out_type").type) == ("Shape", INT64)
    assert attr(nodes["size32"], "out_type").type == INT


@pytest.mark.parametrize(
    ("op", "value", "inputs"),
    [
        ("Assign", "Identity", ["new"]),
        ("AssignAdd", "AddV2", ["v", "new"]),
        ("AssignSub", "Sub", ["v", "new"]),
        ("AssignVariableOp", "Identity", ["new"]),
        ("AssignAddVariableOp", "AddV2", ["v", "new"]),
        ("AssignSubVariableOp", "Sub", ["v", "new"]),
    ],
)
def test_an_assignment_becomes_the_value_that_it_would_assign(op, value, inputs):
    resource = op.endswith("VariableOp")
    kind = {"dtype": {"type": FLOAT}} if resource else {"T": {"type": FLOAT}}
    nodes = after(variable("v", 3, resource=resource), fed("new", 3), make_node("a", op, ["v", "new", "^new"], **kind))
    assert (nodes["a"].op, list(nodes["a"].input)) == (value, [*inputs, "^new"])
    assert attr(nodes["a"], "T").type == FLOAT


@pytest.mark.parametrize("op", ["IsVariableInitialized", "VarIsInitializedOp"])
def test_a_parameter_always_has_a_value(op):
    nodes = after(variable("v", 3, resource=op.startswith("Var")), make_node("there", op, ["v"]))
    assert read_constant(nodes["there"])


def test_a_use_of_the_storage_itself_is_refused():
    source = graph(variable("v", 3, resource=True), make_node("scatter", "ResourceScatterAdd", ["v"]))
    error = refusal(as_parameters, source)
    assert error.where == "scatter"
    assert error.what == "ResourceScatterAdd uses the storage of variable 'v', not only its value"
    assert error.todo == "choose a cut below this node"


@every_golden
def test_no_reference_and_no_resource_is_left_of_a_golden(name):
    source = golden(name)
    below = cut(source.graph, [source.cut])
    before = stored(below)
    nodes = as_parameters(below).nodes
    assert not [n.op for n in nodes.values() if n.op.startswith(("Ref", "Var", "ReadVariable", "Assign", "Resource"))]
    assert {node_of(ref) for n in nodes.values() for ref in n.input} <= set(nodes)
    assert stored(below) == before


# ---- in functions


def branching(name: str, op: str, *inputs: str, kinds=(FLOAT, 20), **functions: str):
    """A node of functional control flow."""
    key = "T" if op.endswith("While") else "Tin"
    result = make_node(name, op, inputs, **{key: {"list": AttrValue.ListValue(type=kinds)}})
    for attribute, called in functions.items():
        result.attr[attribute].func.name = called
    return result


def read(name: str = "read", source: str = "v"):
    return inner(name, "ReadVariableOp", source, dtype={"type": FLOAT})


SCALED = function("scaled", ["t", "v"], {"out": "m:z:0"}, read(), inner("m", "Mul", "t", "read:value:0"), v=20)
SAME = function("same", ["t", "v"], {"out": "t"}, v=20)
FEW = function("few", ["t", "v"], {"go": "go:output:0"}, constant("go", False), v=20, go=BOOL)
TURN = function(
    "turn", ["t", "v"], {"t": "m:z:0", "w": "v"}, read(), inner("m", "Mul", "t", "read:value:0"), v=20, w=20
)


def chosen(*functions, yes: str = "scaled", no: str = "same", **ops):
    nodes = [variable("v", 3, resource=True), fed("x", 3), fed("p", dtype=BOOL)]
    nodes.append(branching("if", "StatelessIf", "p", "x", "v", then_branch=yes, else_branch=no))
    return with_functions(graph(*nodes), *(functions or (SCALED, SAME)))


def body_of(source, name: str):
    (found,) = [f for f in source.functions if f.signature.name == name]
    body = opened(found, source)
    assert body is not None
    return body


def test_a_branch_takes_the_value_of_a_variable():
    source = chosen()
    before = stored(source)
    after = pruned(as_parameters(source))
    node = after.nodes["if"]
    assert list(attr(node, "Tin").list.type) == [FLOAT, FLOAT]
    yes, no = (body_of(after, node.attr[key].func.name) for key in ("then_branch", "else_branch"))
    assert [attr(yes.nodes[a], "T").type for a in yes.arguments] == [FLOAT, FLOAT]
    assert (yes.nodes["read"].op, list(yes.nodes["m"].input)) == ("Identity", ["t", "read"])
    assert [attr(no.nodes[a], "T").type for a in no.arguments] == [FLOAT, FLOAT]
    assert {f.signature.name for f in after.functions}.isdisjoint({"scaled", "same"})
    assert stored(source) == before


def test_a_loop_passes_the_value_on():
    loop = branching("loop", "While", "x", "v", cond="few", body="turn")
    loop.attr["output_shapes"].list.shape.extend([shape(3), shape()])
    nodes = [variable("v", 3, resource=True), fed("x", 3), loop, make_node("after", "ReadVariableOp", ["loop:1"])]
    after = as_parameters(with_functions(graph(*nodes), FEW, TURN))
    node = after.nodes["loop"]
    assert list(attr(node, "T").list.type) == [FLOAT, FLOAT]
    assert [shape_of(s) for s in attr(node, "output_shapes").list.shape] == [(3,), (3,)]
    body = body_of(after, node.attr["body"].func.name)
    assert [kind.type for kind in body.kinds.values()] == [FLOAT, FLOAT]
    assert dict(body.returns) == {"t": "m", "w": "v"}
    assert after.nodes["after"].op == "Identity"


def test_a_variable_goes_through_branches_in_branches():
    nested = branching("again", "If", kinds=(FLOAT, 20), then_branch="scaled", else_branch="same")
    nested.input.extend(["yes:output:0", "t", "v"])
    outer = function("outer", ["t", "v"], {"out": "again:output:0"}, constant("yes", True), nested, v=20)
    after = as_parameters(chosen(outer, SCALED, SAME, yes="outer"))
    body = body_of(after, after.nodes["if"].attr["then_branch"].func.name)
    assert list(attr(body.nodes["again"], "Tin").list.type) == [FLOAT, FLOAT]
    assert body_of(after, body.nodes["again"].attr["then_branch"].func.name).nodes["read"].op == "Identity"


def test_a_function_is_made_once_for_each_kind_of_arguments():
    source = chosen()
    nodes = {**source.nodes, "w": variable("w", 3, resource=True), "u": variable("u", 5, resource=True)}
    for name in ("w", "u"):
        nodes[f"if_{name}"] = branching(f"if_{name}", "If", "p", "x", name, then_branch="scaled", else_branch="same")
    after = as_parameters(source.with_nodes(nodes))
    names = [after.nodes[n].attr["then_branch"].func.name for n in ("if", "if_w", "if_u")]
    assert names[0] == names[1] != names[2]


def test_a_branch_without_variables_keeps_its_functions():
    plain = function("plain", ["t"], {"out": "t"})
    choice = branching("if", "If", "p", "x", kinds=(FLOAT,), then_branch="plain", else_branch="plain")
    source = with_functions(graph(fed("p", dtype=BOOL), fed("x", 3), choice), plain)
    assert stored(as_parameters(source)) == stored(source)


def test_an_assignment_in_a_function_is_refused_with_the_way_to_it():
    up = inner("up", "AssignAddVariableOp", "v", "t", dtype={"type": FLOAT})
    error = refusal(as_parameters, chosen(function("counts", ["t", "v"], {"out": "t"}, up, v=20), SAME, yes="counts"))
    assert error.where == "if → counts → up"
    assert error.what == "AssignAddVariableOp assigns to variable 'v' inside a function"


def test_what_needs_the_storage_of_a_variable_is_refused_in_functions_too():
    hands_on = function("hands_on", ["t", "v"], {"out": "v"}, v=20, out=20)
    assert "chooses between variables" in refusal(as_parameters, chosen(hands_on, SAME, yes="hands_on")).what
    own = inner("own", "VarHandleOp", dtype={"type": FLOAT})
    keeps = function("keeps", ["t", "v"], {"out": "t"}, own, v=20)
    assert refusal(as_parameters, chosen(keeps, SAME, yes="keeps")).where == "if → keeps → own"
    unknown = function("unknown", ["t", "v"], {"out": "n:a:0"}, inner("n", "NobodyKnowsThis", "t"), v=20)
    assert "nothing says" in refusal(as_parameters, chosen(unknown, SAME, yes="unknown")).what
