"""Mode feeds are known by their dtype, their rank and their use; only a plain boolean's name says more."""

from __future__ import annotations

import pytest

from finetune.graph import constant, make_node
from finetune.surgery import modes
from finetune.surgery.cut import cut
from finetune.surgery.modes import Mode, left_in_training, recognise
from tests.graphs import BOOL, FLOAT, INT, fed, golden, graph, node

KEPT, DROPPED = Mode(train=0.5, eval=1.0), Mode(train=0.5, eval=0.0)


def dropout(share, divisor: str, compared: str, *between):
    """Dropout of `x`, which divides by one tensor and compares noise with another."""
    return graph(
        fed("x", None, 3),
        share,
        *between,
        node("scaled", "RealDiv", "x", divisor),
        node("shape", "Shape", "x"),
        make_node("noise", "RandomUniform", ["shape"]),
        node("noise/mul", "Mul", "noise", "noise"),
        node("mask", "GreaterEqual", "noise/mul", compared),
        node("out", "Mul", "scaled", "mask"),
    )


def by_rate(share):
    """As TensorFlow since 1.13 has it: x / (1 - rate) where noise >= rate."""
    name = share.name
    return dropout(share, "sub", name, constant("one", 1.0, FLOAT), node("sub", "Sub", "one", name))


def of(source, name: str) -> Mode | None:
    return recognise(source, source.nodes[name])


# ---- dropout


@pytest.mark.parametrize("name", ["keep_prob", "dropout_prob", "dropout", "p", "Placeholder_2", "net/rate"])
def test_what_dropout_divides_by_is_the_share_kept_whatever_its_name(name):
    assert of(dropout(fed(name), name, name), name) == KEPT


@pytest.mark.parametrize("name", ["keep_prob", "dropout_prob", "dropout", "p", "Placeholder_2", "net/rate"])
def test_what_is_first_taken_from_one_is_the_share_dropped_whatever_its_name(name):
    assert of(by_rate(fed(name)), name) == DROPPED


def test_dropout_by_keep_prob_in_its_newer_form_is_the_share_kept():
    one, rate, kept = constant("one", 1.0, FLOAT), node("rate", "Sub", "one", "k"), node("kept", "Sub", "one", "rate")
    assert of(dropout(fed("k"), "kept", "rate", one, rate, kept), "k") == KEPT


def test_dropout_in_its_oldest_form_adds_the_share_to_the_noise():
    source = graph(
        fed("x", None, 3),
        fed("k"),
        make_node("noise", "RandomUniform", ["x"]),
        node("sum", "Add", "k", "noise"),
        node("floor", "Floor", "sum"),
        node("div", "Div", "x", "k"),
        node("out", "Mul", "div", "floor"),
    )
    assert of(source, "k") == KEPT


def test_a_reciprocal_divides_too():
    more = [node("inv", "Reciprocal", "k")]
    source = dropout(fed("k"), "one", "k", constant("one", 1.0), *more)
    assert of(source, "k") == KEPT


def test_dropout_in_a_loop_or_a_branch_is_found():
    source = dropout(fed("k"), "cast", "enter", node("enter", "Enter", "k"), node("cast", "Cast", "enter"))
    assert of(source, "k") == KEPT


@pytest.mark.parametrize(("name", "mode"), [("keep_prob", KEPT), ("drop_rate", DROPPED), ("dropout_keep_prob", KEPT)])
def test_where_no_use_is_seen_the_name_says_it(name, mode):
    assert of(graph(fed(name)), name) == mode


def test_a_divisor_that_meets_no_noise_is_no_dropout():
    source = graph(fed("x", None, 3), fed("temperature"), node("out", "RealDiv", "x", "temperature"))
    assert of(source, "temperature") is None


@pytest.mark.parametrize("placeholder", [fed("keep_prob", 3), fed("keep_prob", dtype=INT), fed("learning_rate")])
def test_what_is_no_float_scalar_or_in_no_dropout_is_no_mode(placeholder):
    assert recognise(graph(placeholder), placeholder) is None


def test_the_goldens_dropout_is_found():
    for name in ("conv_ref", "dropout_while"):
        source = golden(name)
        assert of(cut(source.graph, [source.cut]), "keep_prob") == KEPT


# ---- training or not


@pytest.mark.parametrize(
    "name", ["is_training", "net/is_train", "phase_train", "training", "train_mode", "phase_train_1", "isTraining"]
)
def test_a_boolean_of_a_telling_name_chooses_the_phase(name):
    assert of(graph(fed(name, dtype=BOOL)), name) == Mode(train=True, eval=False)


def test_a_boolean_that_only_chooses_branches_does_too():
    source = graph(fed("flag", dtype=BOOL), node("pred", "Identity", "flag"), node("s", "Switch", "x", "flag"))
    assert of(source, "flag") == Mode(train=True, eval=False)


def test_a_boolean_that_is_data_does_not():
    flag = fed("mask", dtype=BOOL)
    assert recognise(graph(flag), flag) is None
    assert recognise(graph(flag, node("n", "LogicalAnd", "mask", "other")), flag) is None
    assert recognise(graph(flag), fed("is_training", None, dtype=BOOL)) is None


# ---- defaults


def with_default(value, name="mode"):
    dtype = BOOL if isinstance(value, bool) else FLOAT
    return [
        constant("default", value, dtype),
        make_node(
            name,
            "PlaceholderWithDefault",
            ["default"],
            dtype={"type": dtype},
            shape={"shape": fed("p").attr["shape"].shape},
        ),
    ]


def test_a_default_of_training_is_noticed():
    assert left_in_training(graph(*with_default(True, "is_training"))) == {
        "is_training:0": Mode(train=True, eval=False)
    }


def test_the_authors_own_share_is_kept_in_training():
    default, share = with_default(0.8, "k")
    source = dropout(share, "k", "k", default)
    assert left_in_training(source) == {"k:0": Mode(train=0.8, eval=1.0)}


@pytest.mark.parametrize(("name", "value"), [("is_training", False), ("keep_prob", 1.0), ("drop_rate", 0.0)])
def test_a_default_of_evaluation_is_left_alone(name, value):
    assert left_in_training(graph(*with_default(value, name))) == {}


def test_a_placeholder_without_default_is_no_matter_of_defaults():
    assert left_in_training(graph(fed("is_training", dtype=BOOL))) == {}


def test_a_default_that_is_computed_is_taken_for_training():
    computed = with_default(True, "is_training")[1]
    assert left_in_training(graph(computed)) == {"is_training:0": Mode(train=True, eval=False)}
    assert modes.left_in_training(golden("bn_cond").graph) == {"is_training:0": Mode(train=True, eval=False)}
