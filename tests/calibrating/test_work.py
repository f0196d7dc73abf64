"""How much a job computes, counted in graphs whose counts are known."""

from __future__ import annotations

import pytest

from finetune.calibrating.work import Work, job, least_operations, least_seconds
from finetune.compose import compose
from finetune.graph import constant
from finetune.plan import Plan, make_plan
from finetune.protos import AttrValue
from tests import graphs


def strided(stride: int, padding: bytes, **more: object) -> dict[str, object]:
    return {"strides": {"list": AttrValue.ListValue(i=[1, stride, stride, 1])}, "padding": {"s": padding}, **more}


def test_a_network_of_known_counts():
    pool = strided(2, b"VALID", ksize={"list": AttrValue.ListValue(i=[1, 2, 2, 1])})
    graph = graphs.graph(
        graphs.fed("x", None, 224, 224, 3),
        graphs.fed("w", 3, 3, 3, 64),
        graphs.node("read", "Identity", "w"),
        graphs.node("conv", "Conv2D", "x", "read", **strided(1, b"SAME")),
        graphs.node("relu", "Relu", "conv"),
        graphs.node("pool", "MaxPool", "relu", **pool),
        graphs.fed("v", 7, 7, 64, 10),
        graphs.node("last", "Conv2D", "pool", "v", **strided(1, b"VALID")),
        constant("axes", [1, 2]),
        graphs.node("mean", "Mean", "last", "axes"),
        graphs.fed("u", 10, 5),
        graphs.node("out", "MatMul", "mean", "u"),
    )
    variables = {"w": (3, 3, 3, 64), "v": (7, 7, 64, 10), "u": (10, 5)}
    first, last = 9 * 3 * 64 * 224 * 224, 49 * 64 * 10 * 106 * 106
    assert least_operations(graph, {"x:0": (None, 224, 224, 3)}, variables) == 2 * (first + last + 50)


def test_a_loop_is_counted_once_and_ends():
    graph = graphs.graph(
        graphs.fed("x", None, 4),
        graphs.fed("w", 4, 4),
        graphs.node("enter", "Enter", "x"),
        graphs.node("merge", "Merge", "enter", "next"),
        graphs.node("w_in", "Enter", "w"),
        graphs.node("product", "MatMul", "merge", "w_in"),
        graphs.node("next", "NextIteration", "product"),
    )
    assert least_operations(graph, {"x:0": (None, 4)}, {"w": (4, 4)}) == 32


def test_rows_folded_to_images():
    graph = graphs.graph(
        graphs.fed("x", None, 784),
        constant("shape", [-1, 28, 28, 1]),
        graphs.node("image", "Reshape", "x", "shape"),
        graphs.fed("w", 5, 5, 1, 2),
        graphs.node("conv", "Conv2D", "image", "w", **strided(1, b"SAME")),
    )
    assert least_operations(graph, {"x:0": (None, 784)}, {"w": (5, 5, 1, 2)}) == 2 * 50 * 784


def plan_of(*words: str) -> tuple[Plan, Work]:
    recipe = compose(["recipe=vgg_2class", "train.steps=100", "train.batch_size=50", *words]).recipe
    plan = make_plan(recipe)
    return plan, job(recipe, plan)


def test_the_demo_is_counted_as_its_layers_say():
    plan, _ = plan_of()
    sides, widths = (28, 14, 7, 4, 2), ((1, 16), (16, 32), (32, 48), (48, 64), (64, 128))
    by_hand = sum(2 * 9 * a * b * side * side for side, (a, b) in zip(sides, widths, strict=True))
    by_hand += 2 * (128 * 256 + 256 * 256)
    graph = plan.phases[0].variants.evaluation.graph
    found = least_operations(graph, {plan.source.inputs["images"]: (None, 28, 28, 1)}, plan.source.shapes)
    assert found == pytest.approx(by_hand, rel=0.1)


def test_a_frozen_backbone_is_run_once_for_each_example():
    plan, work = plan_of()
    assert work == Work((len(plan.training) + len(plan.held_out)) / 50, 0)


def test_a_varied_example_is_run_in_each_step():
    plan, work = plan_of("data.augment.preset=light", "eval.every_steps=50")
    assert work == Work(100 + 3 * len(plan.held_out) / 50, 0)


def test_what_learns_is_run_in_steps():
    assert plan_of("stop_gradient=false")[1].steps == 100
    assert plan_of("learn=[['fc7/.*',1],['.*',0]]", "stop_gradient=false")[1].steps == 100
    assert plan_of("lora.match=[fc7/weights]", "stop_gradient=false")[1].steps == 100


def test_of_phases_those_count_in_which_the_source_learns():
    first = "{name: head, until: {step: 30}, stop_gradient: true}"
    assert plan_of(f"phases=[{first}, {{name: all, stop_gradient: false}}]")[1].steps == 70


def test_what_no_machine_surpasses():
    work = Work(100, 10)
    assert least_seconds(work, 31e9, 122, 16, cores=2, gpus=0) == pytest.approx(130 * 31e9 * 16 / 2e11)
    assert least_seconds(work, 31e9, 122, 16, cores=2, gpus=1) < 1
    assert least_seconds(work, 10, 1000, 16, cores=2, gpus=0) == pytest.approx(130 * 1000 / 1e6)
