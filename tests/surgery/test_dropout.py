"""Dropout is known by its form in every release of TensorFlow, and can be passed over."""

from __future__ import annotations

import pytest

from finetune.graph import Graph, constant, make_node
from finetune.surgery.backbone import make_backbone
from finetune.surgery.cut import cut
from finetune.surgery.dropout import find_dropouts, without_dropout
from tests.graphs import BOOL, FLOAT, every_golden, fed, golden, graph, node


def noise() -> list:
    shape = make_node("shape", "Shape", ["x"], T={"type": FLOAT}, out_type={"type": 3})
    drawn = make_node("uniform", "RandomUniform", ["shape"], dtype={"type": FLOAT}, T={"type": 3})
    return [fed("x", None, 3), constant("keep", 0.5, FLOAT), shape, drawn, node("u", "Mul", "uniform", "one")]


def floored() -> Graph:
    form = [node("div", "RealDiv", "x", "keep"), node("add", "Add", "keep", "u"), node("floor", "Floor", "add")]
    return graph(constant("one", 1.0, FLOAT), *noise(), *form, node("out", "Mul", "div", "floor"))


def compared(select: bool = False) -> Graph:
    form = [node("scaled", "Mul", "x", "keep"), node("ge", "GreaterEqual", "u", "keep")]
    mask = make_node("mask", "Cast", ["ge"], SrcT={"type": BOOL}, DstT={"type": FLOAT})
    out = node("out", "SelectV2", "ge", "scaled", "zero") if select else node("out", "Mul", "mask", "scaled")
    return graph(constant("one", 1.0, FLOAT), constant("zero", 0.0, FLOAT), *noise(), *form, mask, out)


@pytest.mark.parametrize("source", [floored(), compared(), compared(select=True)])
def test_every_form_is_found_and_passes_its_input_on(source):
    assert find_dropouts(source) == {"out": "x"}
    still = cut(without_dropout(source), ["out:0"])
    assert set(still.nodes) == {"x", "out"}
    assert source.nodes["out"].op != "Identity"


def test_noise_that_is_added_is_no_dropout():
    source = graph(
        constant("one", 1.0, FLOAT), *noise(), node("out", "Add", "x", "u"), node("again", "Mul", "out", "keep")
    )
    assert find_dropouts(source) == {}
    assert without_dropout(source).nodes.keys() == source.nodes.keys()


@every_golden
def test_no_dropout_of_a_golden_draws_any_more(name):
    about = golden(name)
    arguments = ([about.cut], about.inputs, about.feeds["train"])
    drawn = make_backbone(about.graph, *arguments).draws
    still = make_backbone(without_dropout(about.graph), *arguments).draws
    assert all("dropout" in draw for draw in drawn)
    assert not still
