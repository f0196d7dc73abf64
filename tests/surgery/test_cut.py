"""A cut is bounded or it is refused."""

from __future__ import annotations

import pytest

from finetune.graph import Graph, all_contexts, constant, make_node
from finetune.names import node_of
from finetune.protos import CondContextDef, ControlFlowContextDef, GraphDef
from finetune.surgery.cut import cut, find_tensor, place_of, pruned, width_at
from tests.graphs import (
    FLOAT,
    cond_graph,
    every_golden,
    fed,
    golden,
    graph,
    loop_graph,
    node,
    refusal,
    shapes,
    stored,
    variable,
    with_ops,
)
from tests.growth import calls_made


def chain(*more):
    """x * w -> fc -> relu -> logits, and an optimizer behind it."""
    nodes = [
        fed("labels", None),
        variable("w", 3),
        fed("x", None, 3),
        node("fc", "Mul", "x", "w"),
        node("relu", "Relu", "fc", "^asserted"),
        make_node("asserted", "Assert", ["x"]),
        node("logits", "Softmax", "relu"),
        node("loss", "Mean", "logits", "labels"),
        variable("w/Adam", 3),
        node("gradients/relu", "ReluGrad", "loss", "relu"),
        make_node("train", "NoOp", ["^gradients/relu"]),
    ]
    return graph(*nodes, *more)


# ---- names of tensors


@pytest.mark.parametrize("name", ["relu", "relu:0"])
def test_the_first_output_may_go_without_its_number(name):
    assert find_tensor(chain(), name, "cut") == "relu:0"


def test_an_unknown_tensor_is_refused_with_the_nearest_names():
    error = refusal(find_tensor, chain(), "rellu", "cut")
    assert (error.where, error.what, error.status) == ("cut", "the graph has no tensor 'rellu:0'", 3)
    assert error.todo.startswith("did you mean relu:0")


def test_nodes_of_the_training_half_are_never_suggested():
    assert "gradients" not in refusal(find_tensor, chain(), "gradients/rel", "cut").todo


@pytest.mark.parametrize("name", ["relu:x", "relu:-1", "^relu", "relu:0:0", ":0", ""])
def test_what_is_no_tensor_name_is_refused(name):
    error = refusal(find_tensor, chain(), name, "stop_gradient")
    assert error.where == "stop_gradient"
    assert error.what == f"'{name}' is no tensor name"
    assert error.todo == "write it as scope/op:0"


def test_an_output_that_the_node_does_not_have_is_refused():
    split = node("split", "Split", "axis", "x", num_split={"i": 2})
    ops = {"Split": [{"name": "output", "type_attr": "T", "number_attr": "num_split"}]}
    recorded = node("recorded", "Mine", "x", _output_shapes=shapes((None, 3), (None, 3)))
    source = with_ops(chain(split, recorded), **ops)
    for name in ("split", "recorded"):
        assert find_tensor(source, f"{name}:1", "cut") == f"{name}:1"
        error = refusal(find_tensor, source, f"{name}:2", "cut")
        assert error.what == f"'{name}' has 2 outputs, no '{name}:2'"
        assert error.todo == f"did you mean {name}:0?"
    single = with_ops(chain(), Relu=[{"name": "activations", "type_attr": "T"}])
    nodes = {**single.nodes, "relu": node("relu", "Relu", "fc")}
    assert refusal(find_tensor, single.with_nodes(nodes), "relu:1", "cut").what == "'relu' has one output, no 'relu:1'"


def test_an_op_without_outputs_is_no_tensor():
    source = with_ops(chain(), NoOp=[])
    assert refusal(find_tensor, source, "train", "cut").what == "'train' is a NoOp, which gives no tensor"


@every_golden
def test_the_ops_of_a_real_file_say_how_many_outputs_there_are(name):
    source = golden(name)
    assert find_tensor(source.graph, source.cut, "cut") == source.cut
    refusal(find_tensor, source.graph, f"{node_of(source.cut)}:1", "cut")


# ---- what stays


def test_a_cut_keeps_the_ancestors_and_nothing_else():
    assert list(cut(chain(), ["relu:0"]).nodes) == ["w", "x", "fc", "relu"]


def test_a_cut_keeps_the_original_order():
    source = golden("conv_ref")
    kept = list(cut(source.graph, [source.cut]).nodes)
    assert kept == [name for name in source.graph.nodes if name in set(kept)]
    assert len(kept) < len(source.graph.nodes)


def test_constants_that_wait_for_something_do_not_each_look_for_a_loop_above_them():
    def waiting(count: int) -> Graph:
        nodes = [fed("x", None, 3)]
        for i in range(count):
            before = f"a{i - 1}" if i else "x"
            nodes += [constant(f"c{i}", 1.0, FLOAT, [f"^{before}"]), node(f"a{i}", "AddV2", before, f"c{i}")]
        return graph(*nodes)

    few, many = waiting(100), waiting(1000)
    assert not cut(many, ["a999:0"]).nodes["c999"].input
    assert calls_made(lambda: cut(many, ["a999:0"])) < 12 * calls_made(lambda: cut(few, ["a99:0"]))


@every_golden
def test_the_source_graph_is_untouched(name):
    source = golden(name).graph
    before = stored(source)
    cut(source, [golden(name).cut], golden(name).inputs.values())
    assert stored(source) == before


@every_golden
def test_every_input_of_a_cut_is_in_it(name):
    below = cut(golden(name).graph, [golden(name).cut])
    assert {node_of(ref) for n in below.nodes.values() for ref in n.input} <= set(below.nodes)
    conds, whiles = all_contexts(below)
    mentioned = {v for c in (*conds, *whiles) for v in c.values_def.values}
    mentioned |= {v for c in (*conds, *whiles) for v in c.values_def.external_values.values()}
    assert {node_of(v) for v in mentioned} <= set(below.nodes)


@every_golden
def test_a_cut_of_a_cut_changes_nothing(name):
    below = cut(golden(name).graph, [golden(name).cut])
    assert stored(cut(below, [golden(name).cut])) == stored(below)


@every_golden
def test_no_optimizer_and_no_saver_is_below_a_cut(name):
    below = cut(golden(name).graph, [golden(name).cut])
    strange = {n for n in below.nodes if n.startswith(("gradients", "save/", "fc8")) or "Adam" in n}
    # The old gradients counted the turns of a loop, and the counter's exit is one of the loop's.
    counters = {node_of(v) for loop in below.whiles for v in (*loop.values_def.values, *loop.loop_enter_names)}
    assert {n for n in strange - counters if below.nodes[n].op != "Const"} == set()


def test_several_outputs_share_one_cut():
    assert list(cut(chain(), ["fc", "labels:0"]).nodes) == ["labels", "w", "x", "fc"]


def test_control_inputs_are_dropped():
    source = chain()
    assert list(cut(source, ["relu"]).nodes["relu"].input) == ["fc"]
    assert list(source.nodes["relu"].input) == ["fc", "^asserted"]


def test_what_stays_as_it_is_is_not_copied():
    source = chain()
    assert cut(source, ["relu"]).nodes["fc"] is source.nodes["fc"]


def test_a_cut_ends_at_its_inputs():
    below = cut(chain(), ["logits"], ["relu:0"])
    assert list(below.nodes) == ["relu", "logits"]
    assert list(below.nodes["relu"].input) == []


def test_a_cut_at_an_input_is_that_input():
    assert list(cut(chain(), ["relu"], ["relu"]).nodes) == ["relu"]


def test_an_input_ends_the_cut_for_its_own_output_alone():
    queue = make_node("queue", "FIFOQueueV2")
    batch = make_node("batch", "QueueDequeueManyV2", ["queue"])
    both = chain(queue, batch, node("both", "Add", "batch", "batch:1"))
    assert list(cut(both, ["both"], ["batch:0", "batch:1"]).nodes) == ["batch", "both"]
    assert list(cut(both, ["both"], ["batch:0"]).nodes) == ["queue", "batch", "both"]


def test_a_node_that_is_not_in_the_file_is_named():
    error = refusal(cut, graph(node("relu", "Relu", "gone")), ["relu"])
    assert (error.where, error.todo) == ("gone", "is the .meta complete?")
    assert error.what == "'relu' reads this, but it is not in the file"


def test_a_deep_graph_is_no_deep_recursion():
    nodes = [fed("x0"), *(node(f"x{i}", "Relu", f"x{i - 1}") for i in range(1, 2000))]
    assert len(cut(graph(*nodes), ["x1999"]).nodes) == 2000


# ---- functions


def test_only_functions_that_are_called_stay_with_those_that_they_call():
    library = GraphDef().library.function
    for name, calls in (("outer", "inner"), ("inner", ""), ("other", "")):
        function = library.add()
        function.signature.name = name
        if calls:
            function.node_def.add(name="call", op="Mine").attr["f"].func.name = calls
    source = chain(make_node("call", "outer", ["x"]), make_node("other_call", "other", ["x"]))
    source = type(source)(source.nodes, functions=tuple(library))
    assert [f.signature.name for f in cut(source, ["call"]).functions] == ["outer", "inner"]
    assert cut(source, ["relu"]).functions == ()


# ---- branches


def test_both_branches_of_a_cond_stay_with_their_pivots():
    below = cut(cond_graph(), ["out"])
    assert {"a", "b", "cond/switch_t", "cond/switch_f", "cond/pred_id"} <= set(below.nodes)
    assert [c.context_name for c in below.conds] == ["cond/cond_text", "cond/cond_text_1"]


def test_a_constant_stays_in_its_branch():
    assert list(cut(cond_graph(), ["out"]).nodes["cond/two"].input) == ["^cond/switch_t"]


def test_a_cut_below_a_cond_knows_nothing_of_it():
    below = cut(cond_graph(), ["training"])
    assert (list(below.nodes), below.conds) == (["training"], ())


def test_a_context_keeps_only_values_that_are_there():
    source = cond_graph()
    nodes = {name: n for name, n in source.nodes.items() if name != "cond/two"}
    left = pruned(source.with_nodes(nodes))
    assert "cond/two:0" not in left.conds[0].values_def.values
    assert "cond/twice:0" in left.conds[0].values_def.values
    assert "cond/two:0" in source.conds[0].values_def.values


def test_a_context_without_its_pivot_is_no_context():
    source = cond_graph()
    left = pruned(source.with_nodes({name: n for name, n in source.nodes.items() if name != "cond/switch_f"}))
    assert [c.context_name for c in left.conds] == ["cond/cond_text"]


def test_contexts_inside_one_that_is_gone_take_its_place():
    source = cond_graph()
    outer = CondContextDef(context_name="outer", pred_name="gone:0", pivot_name="gone/switch_t:0")
    for context in source.conds:
        outer.nested_contexts.append(ControlFlowContextDef(cond_ctxt=context))
    nested = type(source)(source.nodes, conds=(outer,))
    left = cut(nested, ["out"])
    assert [c.context_name for c in left.conds] == ["cond/cond_text", "cond/cond_text_1"]


# ---- loops


def test_every_enter_exit_and_pivot_of_a_touched_loop_stays():
    below = cut(loop_graph(), ["out"])
    assert {"loop/Exit", "loop/Exit_1", "loop/Enter", "loop/Enter_1", "loop/w", "loop/LoopCond"} <= set(below.nodes)
    assert "idle" not in below.nodes
    assert below.whiles[0] == loop_graph().whiles[0]


@pytest.mark.parametrize("name", ["rnn_while", "rnn_sequence", "while_scalar", "dropout_while"])
def test_every_exit_of_a_touched_loop_of_a_real_file_stays(name):
    source = golden(name)
    below = cut(source.graph, [source.cut])
    (before,), (after,) = source.graph.whiles, below.whiles
    assert list(after.loop_exit_names) == list(before.loop_exit_names)
    assert {node_of(n) for n in after.loop_exit_names} <= set(below.nodes)


def test_a_loop_that_is_not_touched_goes_whole():
    below = cut(loop_graph(), ["w/read"])
    assert (list(below.nodes), below.whiles) == (["w", "w/read"], ())


def test_a_constant_of_a_loop_body_stays_in_it():
    below = cut(loop_graph(), ["out"])
    assert list(below.nodes["loop/one"].input) == ["^loop/i"]
    assert list(below.nodes["loop/five"].input) == ["^loop/Merge"]


def test_a_constant_tied_to_a_loop_body_only_by_an_assert_stays_in_it():
    body = [
        node("loop/asserted", "Assert", "loop/x"),
        make_node("loop/group", "NoOp", ["^loop/asserted"]),
        constant("loop/scale", [1.0, 2.0, 3.0], FLOAT, ["^loop/group"]),
    ]
    below = cut(loop_graph(*body, product=["loop/x", "loop/scale"]), ["out"])
    assert list(below.nodes["loop/scale"].input) == ["^loop/x"]
    assert not {"loop/asserted", "loop/group"} & set(below.nodes)


def test_a_node_with_values_in_the_loop_needs_no_pivot():
    body = [node("loop/asserted", "Assert", "loop/x"), node("loop/y", "Relu", "loop/x", "^loop/asserted")]
    below = cut(loop_graph(*body, product=["loop/y", "loop/w"]), ["out"])
    assert list(below.nodes["loop/y"].input) == ["loop/x"]


def test_a_constant_that_waits_for_something_outside_of_all_loops_waits_no_longer():
    later = constant("later", 1.0, FLOAT, ["^fc"])
    assert list(cut(chain(later), ["later"]).nodes) == ["later"]


def test_a_constant_that_waits_for_the_end_of_a_loop_is_not_in_it():
    source = loop_graph()
    later = constant("later", 1.0, FLOAT, ["^out"])
    nodes = {**source.nodes, "later": later, "sum": node("sum", "Add", "out", "later")}
    assert list(cut(source.with_nodes(nodes), ["sum"]).nodes["later"].input) == []


# ---- places


def test_a_tensor_inside_a_loop_or_an_open_branch_has_a_place():
    assert place_of(loop_graph(), "loop/Mul:0") == "loop/while_context"
    assert place_of(cond_graph(), "cond/mul:0") == "cond/cond_text"


@pytest.mark.parametrize("tensor", ["x:0", "w/read:0", "loop/Exit_1:0", "out:0", "zero:0"])
def test_a_tensor_outside_or_at_the_end_of_a_loop_has_none(tensor):
    assert place_of(loop_graph(), tensor) is None


@pytest.mark.parametrize("tensor", ["x:0", "cond/Merge:0", "out:0", "training:0"])
def test_a_tensor_outside_or_at_the_end_of_a_cond_has_none(tensor):
    assert place_of(cond_graph(), tensor) is None


def test_the_width_at_a_cut_is_what_the_file_records():
    relu = node("relu", "Relu", "x", _output_shapes=shapes((None, 256)))
    assert width_at(graph(relu), "relu:0") == (None, 256)
    assert width_at(chain(), "relu:0") is None
