"""Keys of a TensorFlow-2 SavedModel, by the function that restores it and by its objects."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.graph import make_node
from finetune.protos import GraphDef, MetaGraphDef
from finetune.reading.objects import find_saved
from tests.graphs import graph, meta_of, node, strings, variable

VALUE = ".ATTRIBUTES/VARIABLE_VALUE"


def restoring(**keys: str) -> Any:
    """A function that assigns what is stored under keys to its arguments."""
    function = GraphDef().library.function.add()
    function.signature.name = "restore"
    function.signature.input_arg.add(name="prefix")
    nodes = [strings("names", *keys.values()), make_node("RestoreV2", "RestoreV2", [])]
    nodes[1].input.extend(["prefix", "names:output:0", "specs:output:0"])
    for place, argument in enumerate(keys):
        function.signature.input_arg.add(name=argument)
        passed, assign = (make_node(f"{op}_{place}", op) for op in ("Identity", "AssignVariableOp"))
        passed.input.append(f"RestoreV2:tensors:{place}")
        assign.input.extend([argument, f"{passed.name}:output:0"])
        nodes += [passed, assign]
    function.node_def.extend(nodes)
    return function


@pytest.fixture
def saved() -> Any:
    """Two variables of one name, at `a/b` and in a list; the second is not trained."""
    call = node("call", "StatefulPartitionedCall", "prefix", "kernel_1", "kernel")
    call.attr["f"].func.name = "restore"
    meta = meta_of(graph(variable("kernel", 3, resource=True), variable("kernel_1", 3, resource=True), call))
    meta.graph_def.library.function.append(restoring(first=f"a.Sb/w..x/{VALUE}", second=f"list/0/{VALUE}"))
    meta.saver_def.restore_op_name = "call"
    children = [{"a/b": 1, "list": 2}, {"w.x": 3, "up": 0}, {"0": 4, "again": 3}, {}, {}]
    for place, each in enumerate(children):
        added = meta.object_graph_def.nodes.add()
        for name, target in each.items():
            added.children.add(node_id=target, local_name=name)
        if place > 2:
            added.variable.name, added.variable.trainable = "kernel", place == 3
    return meta


def test_a_variable_has_the_key_that_it_is_restored_from(saved):
    found = find_saved(saved)
    assert {name: v.key for name, v in found.items()} == {
        "kernel_1": f"a.Sb/w..x/{VALUE}",
        "kernel": f"list/0/{VALUE}",
    }


def test_an_object_says_whether_it_is_trained(saved):
    assert {name: v.trainable for name, v in find_saved(saved).items()} == {"kernel_1": True, "kernel": False}


def test_a_file_that_does_not_say_gives_none(saved):
    for broken in ("", "kernel", "elsewhere"):
        saved.saver_def.restore_op_name = broken
        assert find_saved(saved) == {}
    assert find_saved(MetaGraphDef()) == {}


def test_objects_that_lead_nowhere_or_in_a_circle_are_passed_over(saved):
    saved.object_graph_def.nodes[4].children.add(node_id=99, local_name="gone")
    saved.object_graph_def.nodes[4].children.add(node_id=-1, local_name="gone")
    saved.object_graph_def.nodes[3].children.add(node_id=1, local_name="back")
    assert len(find_saved(saved)) == 2
