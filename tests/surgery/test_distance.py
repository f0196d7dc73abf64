"""How many layers a variable is from the cut, on graphs of every kind."""

from __future__ import annotations

import pytest

from finetune.reading.variables import Variable
from finetune.surgery.distance import distances
from finetune.surgery.freeze import Fate
from finetune.surgery.source import read_source
from finetune.surgery.variants import make_variants
from tests.graphs import fed, golden, graph, node, variable


def of_golden(name: str, **changes: object) -> dict[str, int]:
    about = golden(name)
    source = read_source(str(about.folder), about.cut, about.inputs, about.feeds["train"])
    fates = make_variants(source, False, []).fates
    return distances(source.below, source.cut, list(source.inputs.values()), fates, source.shapes)


def by_hand(at: str, sizes: dict[str, tuple[int, ...]], *nodes: object, frozen: tuple[str, ...] = ()) -> dict[str, int]:
    fates = [Fate(Variable(n, n, 1, s, n not in frozen, False), 1.0, "learns") for n, s in sizes.items()]
    below = graph(fed("x", None, 3), *(variable(n, *s) for n, s in sizes.items()), *nodes)
    return distances(below, at, ["x:0"], fates, sizes)


BY_LAYER = {
    "conv_ref": {"conv1": 3, "fc6": 2, "fc7": 1},
    "bn_cond": {"block1": 2, "block2": 1},  # kernel, scale and offset in one
    "bn_moments": {"fc1": 2, "fc2": 1},
    "cond_data": {"base": 2, "positive": 1, "negative": 1},  # one layer or the other, as the data says
    "embedding": {"embedding": 2, "sentence": 1},  # partitioned
    "rnn_while": {"rnn": 1},  # a loop
    "shared": {"tower/fc1": 2, "tower/fc2": 1},  # twice the same tower
}


@pytest.mark.parametrize("name", BY_LAYER)
def test_the_last_layer_is_at_one_and_each_below_it_one_farther(name: str):
    found = {v: steps for v, steps in of_golden(name).items() if v in golden(name).trainable}
    assert found == {v: next(n for layer, n in BY_LAYER[name].items() if v.startswith(layer)) for v in found}
    assert found.keys() == set(golden(name).trainable)


KERNELS = {"stem/w": (3, 3), "one/w": (3, 3), "two/w": (3, 3), "last/w": (3, 3)}


def residual(*more: object, **sizes: tuple[int, ...]) -> dict[str, int]:
    """A block of two layers with a shortcut round it, between a stem and a last layer."""
    return by_hand(
        "last:0",
        {**KERNELS, **sizes},
        node("stem", "MatMul", "x", "stem/w"),
        node("one", "MatMul", "before" if more else "stem", "one/w"),
        node("relu", "Relu", "one"),
        node("two", "MatMul", "relu", "two/w"),
        node("sum", "AddV2", "two", "stem"),
        node("last", "MatMul", "sum", "last/w"),
        *more,
    )


def test_the_longest_way_counts_and_not_the_shortcut():
    assert residual() == {"last/w": 1, "two/w": 2, "one/w": 3, "stem/w": 4}


def test_a_norm_in_front_of_its_kernel_is_no_layer_of_its_own():
    found = residual(node("before", "Mul", "stem", "scale"), scale=(3,))
    assert (found["one/w"], found["stem/w"]) == (3, 4)


def test_weights_that_are_applied_again_and_again_are_one_layer():
    sizes = {"below/w": (3, 3), "cell/w": (3, 3), "cell/b": (3,)}
    nodes = [node("below", "MatMul", "x", "below/w"), node("h0", "Tanh", "below")]
    for turn in range(1, 5):
        nodes += [
            node(f"m{turn}", "MatMul", f"h{turn - 1}", "cell/w"),
            node(f"a{turn}", "BiasAdd", f"m{turn}", "cell/b"),
            node(f"h{turn}", "Tanh", f"a{turn}"),
        ]
    assert by_hand("h4:0", sizes, *nodes) == {"cell/w": 1, "cell/b": 1, "below/w": 2}


def test_a_kernel_that_the_source_does_not_train_is_no_layer():
    nodes = [
        node("a", "MatMul", "x", "a/w"),
        node("table", "MatMul", "a", "table/w"),
        node("b", "MatMul", "table", "b/w"),
    ]
    sizes = {"a/w": (3, 3), "table/w": (3, 3), "b/w": (3, 3)}
    assert by_hand("b:0", sizes, *nodes, frozen=("table/w",))["a/w"] == 2
    assert by_hand("b:0", sizes, *nodes)["a/w"] == 3
