"""The variables of a source, and their keys in a checkpoint."""

from __future__ import annotations

import pytest

from finetune.graph import attr, constant, make_node, shape_of
from finetune.protos import SaverDef, VariableDef
from finetune.reading.variables import Update, find_updates, find_variables, placeholder
from finetune.surgery.cut import cut
from tests.graphs import (
    FLOAT,
    INT64,
    every_golden,
    fed,
    golden,
    graph,
    meta_of,
    node,
    shape,
    strings,
    variable,
)

RESOURCE = {"T": {"type": 20}}


def found(source, meta=None, **collections):
    variables = find_variables(meta or meta_of(source, **collections), source)
    return {v.name: v for v in variables}


def save(scope: str, pairs: dict[str, str], op: str = "SaveV2", pieces: list[str] | None = None) -> list:
    """The nodes of a Saver: key -> what is saved under it."""
    names = [strings(f"{scope}/names", *pairs)]
    specs = [] if op == "Save" else [strings(f"{scope}/specs", *(pieces or [""] * len(pairs)))]
    inputs = [f"{scope}/Const", *[n.name for n in (*names, *specs)], *pairs.values()]
    return [*names, *specs, make_node(f"{scope}/{op}", op, inputs)]


# ---- which there are


def test_variables_are_found_in_the_order_of_the_graph():
    source = graph(variable("b", 3), fed("x"), variable("a", None, dtype=INT64), variable("c", resource=True))
    variables = find_variables(meta_of(source), source)
    assert [v.name for v in variables] == ["b", "a", "c"]
    assert [v.dtype for v in variables] == [FLOAT, INT64, FLOAT]
    assert [v.shape for v in variables] == [(3,), (None,), ()]
    assert [v.resource for v in variables] == [False, False, True]


def test_the_oldest_kind_of_variable_is_one_too():
    source = graph(make_node("w", "Variable", dtype={"type": 101}, shape={"shape": shape(3)}))
    assert found(source)["w"].dtype == FLOAT


@every_golden
def test_the_variables_of_a_golden_are_those_below_its_cut(name):
    source = golden(name)
    below = cut(source.graph, [source.cut])
    variables = find_variables(source.meta, below)
    assert {v.name: v.key for v in variables} == source.keys
    assert {v.name for v in variables if v.trainable} == set(source.trainable)


# ---- what the source trains


def test_the_collection_says_what_is_trainable():
    source = graph(variable("w", 3), variable("mean", 3))
    variables = found(source, trainable=["w"])
    assert (variables["w"].trainable, variables["mean"].trainable) == (True, False)


def test_without_the_collection_a_float_that_nothing_assigns_is_trainable():
    source = graph(
        variable("w", 3),
        variable("steps", dtype=INT64),
        variable("mean", 3),
        variable("average", 3, resource=True),
        constant("zeros", [0.0, 0.0, 0.0]),
        make_node("save/RestoreV2", "RestoreV2"),
        make_node("w/Assign", "Assign", ["w", "zeros"]),
        make_node("save/Assign", "Assign", ["w", "save/RestoreV2"]),
        fed("pretrained", 3),
        make_node("load", "Assign", ["w", "pretrained"]),
        make_node("train/ApplyAdam", "ApplyAdam", ["w", "zeros"]),
        make_node("mean/Assign", "Assign", ["mean", "zeros"]),
        make_node("AssignMovingAvg", "AssignSub", ["mean", "zeros"]),
        make_node("average/Assign", "AssignVariableOp", ["average", "zeros"]),
        node("weighted", "Mul", "w", "zeros"),
        make_node("update", "AssignVariableOp", ["average", "weighted"]),
    )
    assert [name for name, v in found(source).items() if v.trainable] == ["w"]


@every_golden
def test_without_its_collections_a_golden_trains_the_same(name):
    source = golden(name)
    bare = type(source.meta)()
    bare.CopyFrom(source.meta)
    for collection in ("variables", "trainable_variables", "update_ops"):
        bare.collection_def.pop(collection, None)
    variables = find_variables(bare, cut(source.graph, [source.cut]))
    assert {v.name for v in variables if v.trainable} == set(source.trainable)


# ---- keys in the checkpoint


def test_a_variable_is_stored_under_its_name_unless_something_says_otherwise():
    handle = variable("w_handle", 3, resource=True)
    handle.attr["shared_name"].s = b"w"
    variables = found(graph(variable("v", 3), handle, variable("u", 3, resource=True)))
    assert {v.name: v.key for v in variables.values()} == {"v": "v", "w_handle": "w", "u": "u"}


@pytest.mark.parametrize("op", ["Save", "SaveSlices", "SaveV2"])
def test_a_saver_says_under_which_key_a_variable_is_stored(op):
    reads = [node("v/read", "Identity", "v"), make_node("u/Read", "ReadVariableOp", ["u"])]
    nodes = [variable("v", 3), variable("u", 3, resource=True), variable("w", 3), *reads]
    source = graph(*nodes, *save("save", {"old/v": "v/read", "old/u": "u/Read"}, op))
    assert {v.name: v.key for v in found(source).values()} == {"v": "old/v", "u": "old/u", "w": "w"}


def test_of_two_savers_the_active_one_counts():
    last = make_node("save_1/control_dependency", "Identity", ["save_1/Const", "^save_1/SaveV2"])
    source = graph(variable("v", 3), *save("save", {"first": "v"}), *save("save_1", {"second": "v"}), last)
    meta = meta_of(source)
    assert found(source, meta)["v"].key == "first"
    meta.saver_def.CopyFrom(SaverDef(save_tensor_name="save_1/control_dependency:0"))
    assert found(source, meta)["v"].key == "second"


def test_two_savers_may_stand_in_one_scope():
    second = [*save("save/2", {"second": "v"}), make_node("save/Identity", "Identity", ["save/name", "^save/2/SaveV2"])]
    source = graph(variable("v", 3), *save("save", {"first": "v"}), *second)
    meta = meta_of(source)
    meta.saver_def.CopyFrom(SaverDef(save_tensor_name="save/Identity:0"))
    assert found(source, meta)["v"].key == "second"


def test_a_saver_whose_names_are_no_constants_says_nothing():
    made = [fed("save/names", dtype=7), *save("save", {"other": "v"})[1:]]
    assert found(graph(variable("v", 3), *made))["v"].key == "v"


def test_what_is_saved_but_is_no_variable_is_passed_over():
    nodes = [
        variable("v", 3),
        node("twice", "Add", "v", "v"),
        *save("save", {"sum": "twice", "none": "gone", "key": "v"}),
    ]
    assert found(graph(*nodes))["v"].key == "key"


def test_a_piece_of_a_partitioned_variable_has_the_key_of_the_whole():
    nodes = [variable("v/part_0", 2, 3), variable("v/part_1", 2, 3)]
    pairs = save("save", {"v": "v/part_0"}, pieces=["4 3 0,2:0,3"])
    variables = found(graph(*nodes, *pairs))
    assert (variables["v/part_0"].key, variables["v/part_0"].piece) == ("v", "4 3 0,2:0,3")
    assert (variables["v/part_1"].key, variables["v/part_1"].piece) == ("v/part_1", "")


def test_without_a_saver_the_slice_information_says_it():
    source = graph(variable("v/part_1", 2, 3))
    meta = meta_of(source)
    definition = VariableDef(variable_name="v/part_1:0")
    info = definition.save_slice_info_def
    info.full_name = "v"
    info.full_shape.extend([4, 3])
    info.var_offset.extend([2, 0])
    info.var_shape.extend([2, 3])
    meta.collection_def["variables"].bytes_list.value.append(definition.SerializeToString())
    piece = found(source, meta)["v/part_1"]
    assert (piece.key, piece.piece) == ("v", "4 3 2,2:-")


def test_a_placeholder_without_a_shape_has_any():
    assert shape_of(attr(placeholder("p", FLOAT), "shape").shape) is None


# ---- updates


def test_updates_are_what_the_collection_names():
    source = golden("bn_cond")
    below = cut(source.graph, [source.cut])
    updates = find_updates(source.meta, source.graph, below)
    assert {u.variable for u in updates} == source.keys.keys() - set(source.trainable)
    assert all(u.node in source.graph.nodes for u in updates)


def test_updates_are_what_the_forward_path_waits_for_too():
    source = golden("bn_side_effect")
    updates = find_updates(source.meta, source.graph, cut(source.graph, [source.cut]))
    assert {u.variable for u in updates} == source.keys.keys() - set(source.trainable)


def test_updates_are_found_in_groups_and_only_for_variables_below_the_cut():
    whole = graph(
        fed("x", 3),
        variable("mean", 3),
        variable("other", 3),
        make_node("update", "AssignSub", ["mean", "x"]),
        make_node("update_1", "Assign", ["other", "x"]),
        make_node("group", "NoOp", ["^update", "^update_1"]),
        make_node("read", "Identity", ["group"]),
        node("out", "Sub", "x", "mean"),
    )
    meta = meta_of(whole, update_ops=["read", "gone"])
    assert find_updates(meta, whole, cut(whole, ["out"])) == [Update("update", "mean")]


@every_golden
def test_a_golden_without_statistics_has_no_updates(name):
    source = golden(name)
    updates = find_updates(source.meta, source.graph, cut(source.graph, [source.cut]))
    assert {u.variable for u in updates} == source.keys.keys() - set(source.trainable)
