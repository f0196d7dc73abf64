"""Random ops become functions of one seed; what they draw is for `conformance` to see."""

from __future__ import annotations

import pytest

from finetune.graph import Graph, attr, constant, make_node, read_constant, shape_of
from finetune.names import node_of
from finetune.protos import AttrValue, ControlFlowContextDef
from finetune.surgery.bodies import opened
from finetune.surgery.cut import cut, pruned
from finetune.surgery.randomness import SEED, random_nodes, stateless
from tests.graphs import (
    BOOL,
    FLOAT,
    INT,
    INT64,
    cond_graph,
    every_golden,
    fed,
    function,
    golden,
    graph,
    inner,
    loop_graph,
    node,
    refusal,
    stored,
    with_functions,
)

DRAW = {"dtype": {"type": FLOAT}, "T": {"type": INT}, "seed": {"i": 87654321}, "seed2": {"i": 7}}


def draw(name: str, *inputs: str, op: str = "RandomUniform"):
    return make_node(name, op, inputs or ["size"], **DRAW)


def noisy(*nodes) -> Graph:
    return graph(fed("size", 2, dtype=INT), *nodes)


@pytest.mark.parametrize(
    ("op", "inputs", "new", "place"),
    [
        ("RandomUniform", ["size"], "StatelessRandomUniform", 1),
        ("RandomStandardNormal", ["size"], "StatelessRandomNormal", 1),
        ("TruncatedNormal", ["size"], "StatelessTruncatedNormal", 1),
        ("RandomUniformInt", ["size", "low", "high"], "StatelessRandomUniformInt", 1),
        ("Multinomial", ["logits", "count"], "StatelessMultinomial", 2),
    ],
)
def test_a_random_op_becomes_its_stateless_counterpart(op, inputs, new, place):
    after = stateless(noisy(draw("n", *inputs, op=op))).nodes["n"]
    assert after.op == new
    assert list(after.input) == [*inputs[:place], "n/seed", *inputs[place:]]
    assert attr(after, "Tseed").type == INT
    assert not {"seed", "seed2"} & set(after.attr)


def test_dtypes_go_with_it_under_their_new_names():
    kinds = {"Tout": {"type": INT64}, "T": {"type": INT}}
    after = stateless(noisy(make_node("n", "RandomUniformInt", ["size", "a", "b"], **kinds))).nodes["n"]
    assert {key: after.attr[key].type for key in after.attr} == {"dtype": INT64, "T": INT, "Tseed": INT}


def test_the_seed_is_a_placeholder_of_two_integers():
    seed = stateless(noisy(draw("n"))).nodes[SEED]
    assert (seed.op, attr(seed, "dtype").type, shape_of(attr(seed, "shape").shape)) == ("Placeholder", INT, (2,))


def test_each_node_draws_from_a_seed_of_its_own():
    after = stateless(noisy(draw("a"), draw("b"))).nodes
    marks = [tuple(read_constant(after[f"{name}/mark"])) for name in ("a", "b")]
    assert marks[0] != marks[1]
    assert list(after["a/seed"].input) == [SEED, "a/mark"]


def test_what_a_node_draws_does_not_depend_on_the_rest_of_the_graph():
    alone, among = stateless(noisy(draw("n"))).nodes, stateless(noisy(draw("a"), draw("n"), draw("z"))).nodes
    assert alone["n/mark"] == among["n/mark"]


def test_taken_names_are_not_taken_twice():
    after = stateless(noisy(draw("n"), fed("n/seed"), fed("n/mark"))).nodes
    assert list(after["n"].input) == ["size", "n/seed_1"]
    assert after["n/seed"].op == "Placeholder"


def test_a_graph_without_random_ops_is_the_same_graph():
    source = loop_graph()
    assert stateless(source) is source
    assert random_nodes(source) == []


@pytest.mark.parametrize("op", ["RandomShuffle", "RandomGamma", "StatefulUniform"])
def test_a_random_op_that_a_resumed_run_could_not_repeat_is_refused(op):
    error = refusal(stateless, noisy(make_node("shuffled", op, ["size"])))
    assert (error.where, error.status) == ("shuffled", 3)
    assert error.what == f"{op} draws from a generator with state, and a resumed run could not repeat it"
    assert error.todo == "choose a cut below this node"


def test_a_draw_in_a_branch_stays_in_it():
    source = cond_graph()
    context = type(source.conds[0])()
    context.CopyFrom(source.conds[0])
    context.values_def.values.append("cond/noise:0")
    nodes = {**source.nodes, "cond/noise": draw("cond/noise", "x", "^cond/switch_t")}
    after = stateless(Graph(nodes, (context, source.conds[1])))
    assert list(after.nodes["cond/noise"].input) == ["x", "cond/noise/seed", "^cond/switch_t"]
    assert list(after.nodes["cond/noise/mark"].input) == ["^cond/switch_t"]
    assert {"cond/noise/seed:0", "cond/noise/mark:0"} <= set(after.conds[0].values_def.values)
    assert "cond/noise/seed:0" not in after.conds[1].values_def.values


# ---- loops


def noisy_loop() -> Graph:
    return loop_graph(draw("loop/noise", "loop/x"), draw("loop/more", "loop/x"), product=["loop/x", "loop/noise"])


def test_in_a_loop_the_seed_goes_on_with_each_turn():
    after = stateless(noisy_loop())
    base = "loop/while_context/finetune_seed"
    assert list(after.nodes["loop/noise/seed"].input) == [f"{base}/Identity", "loop/noise/mark"]
    assert list(after.nodes[f"{base}/Enter"].input) == [SEED]
    assert list(after.nodes[f"{base}/Merge"].input) == [f"{base}/Enter", f"{base}/NextIteration"]
    assert list(after.nodes[f"{base}/Switch"].input) == [f"{base}/Merge", "loop/LoopCond"]
    assert list(after.nodes[f"{base}/NextIteration"].input) == [f"{base}/Add"]
    assert attr(after.nodes[f"{base}/Enter"], "frame_name").s == b"loop/while_context"


def test_a_loop_counts_once_however_often_it_draws():
    after = stateless(noisy_loop())
    assert len([n for n in after.nodes if n.endswith("finetune_seed/Enter")]) == 1
    assert after.nodes["loop/noise/mark"] != after.nodes["loop/more/mark"]


def test_the_count_is_one_of_the_loops_variables():
    (loop,) = stateless(noisy_loop()).whiles
    base = "loop/while_context/finetune_seed"
    assert f"{base}/Enter:0" in loop.loop_enter_names
    assert f"{base}/Exit:0" in loop.loop_exit_names
    assert {f"{base}/Merge:0", f"{base}/Switch:1", "loop/noise/seed:0"} <= set(loop.values_def.values)


def test_a_draw_before_a_loop_does_not_count_its_turns():
    source = loop_graph()
    after = stateless(source.with_nodes({**source.nodes, "noise": draw("noise", "x")}))
    assert list(after.nodes["noise/seed"].input) == [SEED, "noise/mark"]
    assert after.whiles == source.whiles


def test_a_loop_in_a_loop_counts_on_from_the_outer_count():
    inner = noisy_loop()
    outer = type(inner.whiles[0])(
        context_name="outer",
        pivot_name="outer/LoopCond:0",
        loop_enter_names=["outer/Enter:0"],
        loop_exit_names=["outer/Exit:0"],
    )
    outer.values_def.values.extend(["outer/Merge:0", *inner.whiles[0].values_def.values])
    outer.nested_contexts.append(ControlFlowContextDef(while_ctxt=inner.whiles[0]))
    more = [
        node("outer/Enter", "Enter", "x", frame_name={"s": b"outer"}),
        node("outer/Merge", "Merge", "outer/Enter", "outer/NextIteration", N={"i": 2}),
    ]
    nodes = {**inner.nodes, **{n.name: n for n in more}}
    after = stateless(Graph(nodes, whiles=(outer,))).nodes
    assert list(after["outer/finetune_seed/Enter"].input) == [SEED]
    assert list(after["loop/while_context/finetune_seed/Enter"].input) == ["outer/finetune_seed/Identity"]
    strides = [after[f"{name}/finetune_seed/stride"] for name in ("outer", "loop/while_context")]
    assert tuple(read_constant(strides[0])) != tuple(read_constant(strides[1]))


# ---- in functions


DRAWS = function("draws", ["s"], {"out": "n:output:0"}, make_node("n", "RandomUniform", ["s"], **DRAW), s=INT)
SIZES = function("sizes", ["s"], {"out": "s"}, s=INT)
MORE = function("more", ["s"], {"out": "yes:output:0"}, constant("yes", True), s=INT, out=BOOL)


def choosing(op: str, **functions: str):
    key = "T" if op == "While" else "Tin"
    inputs = ["size"] if op == "While" else ["p", "size"]
    result = make_node("at", op, inputs, **{key: {"list": AttrValue.ListValue(type=[INT])}})
    for attribute, called in functions.items():
        result.attr[attribute].func.name = called
    return with_functions(noisy(fed("p", dtype=BOOL), result), DRAWS, SIZES, MORE)


def body_of(source, attribute: str):
    name = source.nodes["at"].attr[attribute].func.name
    body = opened(next(f for f in source.functions if f.signature.name == name), source)
    assert body is not None
    return body


def test_a_branch_that_draws_gets_the_seed_as_its_last_argument():
    source = choosing("If", then_branch="draws", else_branch="sizes")
    before = stored(source)
    assert random_nodes(source) == ["draws → n"]
    after = stateless(source)
    assert list(after.nodes["at"].input) == ["p", "size", "at/seed"]
    assert list(after.nodes["at/seed"].input) == [SEED, "at/mark"]
    assert list(attr(after.nodes["at"], "Tin").list.type) == [INT, INT]
    body = body_of(after, "then_branch")
    assert body.arguments == ["s", "finetune_seed"]
    assert (body.nodes["n"].op, list(body.nodes["n"].input)) == ("StatelessRandomUniform", ["s", "n/seed"])
    assert list(body.nodes["n/seed"].input) == ["finetune_seed", "n/mark"]
    assert body_of(after, "else_branch").arguments == ["s", "finetune_seed"]
    assert random_nodes(pruned(after)) == []
    assert stored(source) == before


def test_a_functional_loop_steps_the_seed_on_in_each_turn():
    after = stateless(choosing("While", cond="more", body="draws"))
    assert list(attr(after.nodes["at"], "T").list.type) == [INT, INT]
    body = body_of(after, "body")
    assert dict(body.returns) == {"out": "n", "finetune_next_seed": "finetune_seed/Add"}
    assert list(body.nodes["finetune_seed/Add"].input) == ["finetune_seed", "finetune_seed/stride"]
    assert list(body_of(after, "cond").returns) == ["out"]


def test_a_draw_to_which_no_seed_can_be_brought_is_refused():
    other = make_node("at", "MapDefun", ["size"])
    other.attr["f"].func.name = "draws"
    assert refusal(stateless, with_functions(noisy(other), DRAWS)).where == "at"
    enters = function("draws", ["s"], {"out": "s"}, inner("in", "Enter", "s"), DRAWS.node_def[0], s=INT)
    source = choosing("If", then_branch="draws", else_branch="sizes")
    assert "no seed" in refusal(stateless, with_functions(source, enters, SIZES)).what
    gamma = function("draws", ["s"], {"out": "s"}, inner("n", "RandomGamma", "s", "s"), s=INT)
    assert refusal(stateless, with_functions(source, gamma, SIZES)).where == "draws → n"


def test_the_source_graph_is_untouched():
    source = noisy_loop()
    before = stored(source)
    stateless(source)
    assert stored(source) == before


@every_golden
def test_no_golden_has_a_generator_with_state_left(name):
    source = golden(name)
    below = cut(source.graph, [source.cut])
    before = stored(below)
    after = stateless(below)
    assert random_nodes(after) == []
    assert (SEED in after.nodes) == bool(random_nodes(below))
    assert {node_of(ref) for n in after.nodes.values() for ref in n.input} <= set(after.nodes)
    assert stored(below) == before
