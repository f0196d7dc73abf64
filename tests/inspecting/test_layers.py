"""Boxes and edges: what becomes one box, what a box says, and that nothing of the graph is lost or drawn twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from finetune.graph import Graph, constant
from finetune.inspecting.layers import INPUT, JOIN, LAYER, LOOP, Box, Diagram, diagram, in_order, unneeded
from finetune.inspecting.repeats import short
from finetune.names import node_of
from finetune.reading.variables import Variable, find_variables
from finetune.surgery import freeze
from finetune.surgery.cut import cut
from finetune.surgery.freeze import Fate
from tests import graphs
from tests.graphs import FLOAT, INT, every_golden, fed, golden, meta_of, node, variable
from tests.growth import calls_made


def drawn(source: Graph, at: str = "out:0", barriers: Sequence[str] = (), inputs: Sequence[str] = ("x:0",)) -> Diagram:
    below = cut(source, [at], inputs)
    found = find_variables(meta_of(below), below)
    shapes = {v.name: tuple(n or 1 for n in v.shape or ()) for v in found}
    fates = freeze.decide(found, [], freeze.behind(below, [at], barriers), [], set(), freeze.blocked(below, barriers))
    return diagram(below, at, inputs, fates, shapes, barriers)


def named(found: Diagram) -> dict[str, Box]:
    return {box.title: box for box in found.boxes}


def linked(found: Diagram) -> set[tuple[str, str]]:
    return {(found.boxes[a].title, found.boxes[b].title) for a, b in found.edges}


def dense(name: str, source: str, weights: str | None = None, outputs: int = 3) -> list[Any]:
    """MatMul, bias, activation; the weights may be another layer's."""
    own = [] if weights else [variable(f"{name}/w", 3, outputs), variable(f"{name}/b", outputs)]
    w = weights or name
    return [
        *own,
        node(f"{name}/MatMul", "MatMul", source, f"{w}/w"),
        node(f"{name}/BiasAdd", "BiasAdd", f"{name}/MatMul", f"{w}/b"),
        node(f"{name}/Relu", "Relu", f"{name}/BiasAdd", _output_shapes=graphs.shapes((None, outputs))),
    ]


def test_a_layer_is_its_weights_and_what_follows_until_the_next():
    source = graphs.graph(
        fed("x", None, 3), *dense("one", "x"), *dense("two", "one/Relu"), node("out", "Tanh", "two/Relu")
    )
    found = drawn(source)
    boxes = named(found)
    assert [box.kind for box in found.boxes] == [INPUT, LAYER, LAYER]
    assert boxes["one"].ops == ("MatMul", "BiasAdd", "Relu")
    assert boxes["two"].ops == ("MatMul", "BiasAdd", "Relu", "Tanh")
    assert boxes["one"].parameters == 12
    assert boxes["one"].shape == (None, 3)
    assert found.boxes[found.cut] is boxes["two"]
    assert linked(found) == {("x:0", "one"), ("one", "two")}


def test_a_residual_connection_is_an_edge_and_the_sum_a_box():
    source = graphs.graph(
        fed("x", None, 3), *dense("one", "x"), *dense("two", "one/Relu"), node("out", "Add", "one/Relu", "two/Relu")
    )
    found = drawn(source)
    assert named(found)["out"].kind == JOIN
    assert linked(found) == {("x:0", "one"), ("one", "two"), ("one", "out"), ("two", "out")}


def test_the_size_of_a_value_is_no_edge():
    source = graphs.graph(
        fed("x", None, 3),
        *dense("one", "x"),
        *dense("two", "one/Relu"),
        node("size", "Shape", "x"),
        node("out", "Reshape", "two/Relu", "size"),
    )
    assert linked(drawn(source)) == {("x:0", "one"), ("one", "two")}


def test_a_box_ends_at_a_barrier_which_lies_on_its_edge():
    source = graphs.graph(fed("x", None, 3), *dense("one", "x"), node("out", "Tanh", "one/Relu"))
    found = drawn(source, barriers=["one/BiasAdd:0"])
    assert [box.ops for box in found.boxes] == [("float32",), ("MatMul", "BiasAdd"), ("Relu", "Tanh")]
    assert found.edges == {(0, 1): False, (1, 2): True}
    assert {fate.why for fate in found.boxes[1].fates} == {"frozen: no gradient passes the barrier one/BiasAdd:0"}
    assert all(fate.rate for fate in drawn(source).boxes[1].fates)


def test_weights_applied_to_what_they_gave_are_one_box_and_say_how_often():
    steps = [n for i in range(1, 5) for n in dense(f"step{i}", f"step{i - 1}/Relu", "step0")]
    source = graphs.graph(fed("x", None, 3), *dense("step0", "x"), *steps, node("out", "Tanh", "step4/Relu"))
    found = drawn(source)
    assert [box.kind for box in found.boxes] == [INPUT, LOOP]
    assert found.boxes[1].marks == ("unrolled loop, 5 steps",)


def test_weights_applied_side_by_side_are_one_box_and_no_loop():
    both = [*dense("left", "x"), *dense("right", "y", "left")]
    source = graphs.graph(fed("x", None, 3), fed("y", None, 3), *both, node("out", "Sub", "left/Relu", "right/Relu"))
    found = drawn(source, inputs=["x:0", "y:0"])
    assert [box.kind for box in found.boxes] == [INPUT, INPUT, LAYER]
    assert found.boxes[2].marks == ("applied 2 times",)


def test_a_while_loop_is_one_box():
    found = drawn(graphs.loop_graph())
    assert [box.kind for box in found.boxes] == [INPUT, LOOP]
    assert found.boxes[1].marks == ("loop",)
    assert [fate.variable.name for fate in found.boxes[1].fates] == ["w"]


def test_batch_norm_and_dropout_are_marked():
    marks = {mark for name in ("bn_cond", "dropout_while") for box in of_golden(name).boxes for mark in box.marks}
    assert {"batch norm", "loop"} <= marks


def of_golden(name: str, whole: bool = True) -> Diagram:
    known = golden(name)
    inputs = list(known.inputs.values())
    below = cut(known.graph, [known.cut], [*inputs, *known.feeds["eval"]])
    found = find_variables(known.meta, below)
    shapes = {v.name: tuple(n or 1 for n in v.shape or ()) for v in found}
    fates = freeze.decide(found, [], freeze.behind(below, [known.cut], []), [], set())
    drawing = diagram(below, known.cut, inputs, fates, shapes, [])
    return drawing if whole else short(drawing)


@every_golden
def test_every_variable_and_every_node_below_the_cut_is_in_one_box(name: str):
    known = golden(name)
    below = cut(known.graph, [known.cut], [*known.inputs.values(), *known.feeds["eval"]])
    for found in (of_golden(name), of_golden(name, whole=False)):
        nodes = [n for box in found.boxes for n in box.nodes]
        held = [fate.variable.name for box in found.boxes for fate in box.fates]
        assert sorted(nodes) == sorted(below.nodes)
        assert sorted(held) == sorted(v.name for v in find_variables(known.meta, below))
        assert node_of(known.cut) in found.boxes[found.cut].nodes
        assert all(a < b for a, b in found.edges)


def test_components_come_after_what_they_read():
    assert in_order({1: [2], 2: [3, 1], 3: [], 4: [1, 3]}) == [[3], [1, 2], [4]]


def test_what_is_not_needed_is_told_by_its_purpose():
    source = graphs.graph(
        fed("x", None, 3),
        node("out", "Relu", "x"),
        constant("save/Const", 1, INT),
        node("gradients/out_grad", "ReluGrad", "x", "out"),
        node("gradients/x", "Identity", "x"),
        node("queue", "QueueDequeueV2", "x"),
        node("loss", "Mean", "out"),
    )
    counts = unneeded(source, cut(source, ["out:0"]))
    assert counts == {"optimizer": 2, "saver": 1, "queues": 1, "old outputs and others": 1}
    assert next(iter(counts)) == "optimizer"


# ---- what stands many times


def box(title: str, size: int = 3, kind: str = LAYER) -> Box:
    own = Variable(f"{title}/w", f"{title}/w", FLOAT, (size, size), True, False)
    return Box(title, kind, ("MatMul",), (title,), (Fate(own, 1.0, "learns"),), ((size, size),), (None, size))


def chain(*boxes: Box) -> Diagram:
    return Diagram(boxes, {(i, i + 1): False for i in range(len(boxes) - 1)}, len(boxes) - 1)


def test_a_few_boxes_are_drawn_as_they_are():
    assert short(chain(*(box(f"b{i}") for i in range(8)))) == chain(*(box(f"b{i}") for i in range(8)))


def test_a_piece_that_follows_itself_is_drawn_once():
    pairs = [box(f"{kind}{i}", size) for i in range(10) for kind, size in (("wide", 5), ("narrow", 3))]
    found = short(chain(box("first", 9), *pairs, box("last", 9)))
    assert [(b.title, b.last, b.times) for b in found.boxes] == [
        ("first", "", 1),
        ("wide0", "wide9", 10),
        ("narrow0", "narrow9", 10),
        ("last", "", 1),
    ]
    assert found.edges == {(0, 1): False, (1, 2): False, (2, 3): False}
    assert found.boxes[1].repeat == found.boxes[2].repeat != 0
    assert found.boxes[1].parameters == 250


def test_a_barrier_is_never_folded_away():
    whole = chain(*(box(f"b{i}") for i in range(30)))
    found = short(Diagram(whole.boxes, {**whole.edges, (14, 15): True}, whole.cut))
    assert list(found.edges.values()).count(True) == 1
    assert sum(b.times for b in found.boxes) == 30


def test_many_parallel_branches_are_drawn_once():
    edges = {(0, i): False for i in range(1, 21)} | {(i, 21): False for i in range(1, 21)}
    found = short(Diagram((box("x"), *(box(f"b{i}") for i in range(20)), box("sum", 4)), edges, 21))
    assert [b.times for b in found.boxes] == [1, 20, 1]
    assert set(found.edges) == {(0, 1), (1, 2)}


def test_a_graph_that_stays_too_large_is_drawn_by_scope():
    found = short(chain(*(box(f"block{i // 40}/layer{i}", i + 1) for i in range(200))))
    assert [b.title for b in found.boxes] == [*(f"block{i}" for i in range(5)), "block4/layer199"]
    assert found.boxes[0].marks == ("40 layers",)
    assert found.cut == 5


def test_a_long_chain_is_short_and_the_work_grows_with_its_length():
    def drawn(count: int) -> Callable[[], Diagram]:
        layers = [n for i in range(1, count) for n in dense(f"l{i}", f"l{i - 1}/Relu")]
        last = node("out", "Identity", f"l{count - 1}/Relu")
        source = graphs.graph(fed("x", None, 3), *dense("l0", "x"), *layers, last)
        shapes = {n.name: (3, 3)[: 1 + (n.name[-1] == "w")] for n in source.nodes.values() if n.op == "VariableV2"}
        fates = [Fate(Variable(name, name, FLOAT, shape, True, False), 1.0, "learns") for name, shape in shapes.items()]
        return lambda: short(diagram(source, "out:0", ["x:0"], fates, shapes, []))

    found = drawn(1000)()
    assert len(found.boxes) <= 4
    assert max(box.times for box in found.boxes) > 900
    assert calls_made(drawn(1000)) < 12 * calls_made(drawn(100))
