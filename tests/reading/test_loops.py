"""The contexts of loops, told from nodes as `tf.while_loop` makes them."""

from __future__ import annotations

from finetune.graph import make_node
from finetune.reading import loops
from finetune.surgery import cut
from tests.graphs import graph, loop_graph, node


def bare(*without: str):
    return graph(*(n for n in loop_graph().nodes.values() if n.name not in without))


def test_a_context_is_that_which_was_lost():
    (lost,), (told,) = loop_graph().whiles, loops.with_contexts(bare()).whiles
    for field in ("context_name", "pivot_name", "pivot_for_body_name", "loop_enter_names", "loop_exit_names"):
        assert getattr(told, field) == getattr(lost, field), field
    assert told.pivot_for_pred_name == "loop/Merge:0"
    assert dict(told.values_def.external_values) == {"w/read:0": "loop/w:0"}
    assert set(told.values_def.values) == set(lost.values_def.values)


def test_what_stands_inside_is_known_again():
    whole = loops.with_contexts(bare())
    assert cut.place_of(whole, "loop/Mul:0") == "loop/while_context"
    assert cut.place_of(whole, "loop/Exit_1:0") is None
    assert cut.place_of(whole, "out:0") is None


def test_an_exit_that_was_cut_off_comes_back():
    whole = loops.with_contexts(bare("loop/Exit", "idle"))
    assert whole.nodes["loop/Switch/Exit"].op == "Exit"
    assert sorted(whole.whiles[0].loop_exit_names) == ["loop/Exit_1:0", "loop/Switch/Exit:0"]
    assert "loop/Switch/Exit" in cut.cut(whole, ["out:0"]).nodes


def test_loops_in_loops_and_frames_of_other_kinds_get_none():
    inner = make_node("inner", "Enter", ["loop/x"], T={"type": 1}, frame_name={"s": b"inner"})
    assert len(loops.with_contexts(graph(*bare().nodes.values(), inner)).whiles) == 0
    alone = graph(node("x", "Placeholder"), make_node("e", "Enter", ["x"], frame_name={"s": b"f"}))
    assert loops.with_contexts(alone).whiles == ()


def test_a_graph_without_loops_stays_as_it_is():
    source = graph(node("x", "Placeholder"))
    assert loops.with_contexts(source) == source
