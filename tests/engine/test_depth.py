"""Nothing is computed or kept for what does not learn: no gradient below it, no slot of an optimizer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import finetune
from finetune.engine.graft import _joined, _step, graft
from finetune.engine.heads import flattening, initial_values
from finetune.graph import ancestors
from finetune.learning.state import make_state
from finetune.recipe import Head, Train
from finetune.surgery.source import read_source, read_values
from finetune.surgery.variants import Variants, make_variants
from tests.graphs import softmax_of

DEMO = Path(finetune.__file__).parent / "demo" / "small_vgg"
# what learns -> convolutions whose kernels, and whose inputs, have a gradient: of conv1 … conv5, fc6, fc7
DEPTHS = {
    "nothing": ([[".*", 0]], 0, 0),
    "fc7": ([["fc7/.*", 1], [".*", 0]], 1, 0),
    "conv5 and up": ([["(conv5|fc.)/.*", 1], [".*", 0]], 3, 2),
    "conv3 alone": ([["conv3/.*", 1], [".*", 0]], 1, 4),
    "all": ([[".*", 1]], 7, 6),
}


def variants_of(what: str) -> Variants:
    source = read_source(str(DEMO), "fc7", {}, {"keep_prob": 1.0})
    return make_variants(source, False, DEPTHS[what][0])


@pytest.mark.parametrize("what", DEPTHS)
def test_gradients_go_no_deeper_than_what_learns(what: str):
    variants = variants_of(what)
    head = _joined(softmax_of(2, "fc7:0"), Head(), flattening((None, 1, 1, 256), "avg", maps=False))
    _, program = _step(variants, [head], "float32")
    nodes = {node.name: node for node in program.graph.node}
    run = ancestors(nodes, [tensor for name, tensor in program.outputs.items() if not name.endswith("/logits")])
    ops = Counter(nodes[name].op for name in run)
    assert (ops["Conv2DBackpropFilter"], ops["Conv2DBackpropInput"]) == DEPTHS[what][1:]


@pytest.mark.parametrize("what", ["nothing", "fc7"])
def test_only_what_learns_has_slots(what: str):
    source = read_source(str(DEMO), "fc7", {}, {"keep_prob": 1.0})
    model = graft(variants_of(what), {"head": Head()}, [softmax_of(2, "fc7:0")])
    values = {**read_values(source), **initial_values(model.new_variables, 0)}
    state = make_state(values, model.rates, model.updated, {}, Train(optimizer="adam"))
    slots = {name for name in state.groups.state() if "momentum" in name or "velocity" in name}
    learning = {"head_kernel", "head_bias"} | ({"fc7_weights", "fc7_biases"} if what == "fc7" else set())
    assert {name.rpartition("/")[2].removesuffix("_momentum").removesuffix("_velocity") for name in slots} == learning
    assert len(slots) == 2 * len(learning)
