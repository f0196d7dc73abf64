"""Nothing of a source reaches TensorFlow that is not on the list; no test but the last two imports TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from finetune.graph import Graph, constant
from finetune.protos import GraphDef
from finetune.surgery.allowed_ops import ALLOWED
from finetune.surgery.backbone import make_backbone
from finetune.surgery.cut import cut
from finetune.surgery.source import read_source
from finetune.surgery.specialize import bypassed, quiet
from finetune.surgery.trust import check_graph, reason, refused
from tests.graphs import FLOAT, INT, every_golden, fed, golden, graph, node, refusal, shape, strings, variable
from tests.surgery.test_source import pair


def function(name: str, *nodes: Any) -> Any:
    result = GraphDef().library.function.add(node_def=nodes)
    result.signature.name = name
    return result


def call(name: str, callee: str) -> Any:
    result = node(name, "PartitionedCall", "x")
    result.attr["f"].func.name = callee
    return result


def calling(*functions: Any) -> Graph:
    return replace(graph(fed("x", 3), call("call", "f")), functions=functions)


def test_each_node_that_is_refused_is_found_for_itself_or_for_what_it_calls():
    functions = [
        function("good", node("fine", "Relu", "x")),
        function("deep", call("deeper", "bad")),
        function("bad", node("read", "ReadFile", "x")),
        function("circle", call("again", "circle")),
        function("ReadFile", node("fine", "Relu", "x")),
    ]
    calls = [call(f"calls {name}", name) for name in ("good", "deep", "bad", "circle", "nobody")]
    ops = [node("is good", "good", "x"), node("is deep", "deep", "x"), node("file", "ReadFile", "x")]
    source = replace(graph(fed("x", 3), *calls, *ops), functions=tuple(functions))
    assert refused(source) == {"calls deep", "calls bad", "calls nobody", "is deep", "file"}


def test_a_constant_file_name_is_refused_by_the_name_of_the_node(tmp_path):
    nodes = [variable("sentence/bias", 5), strings("name", "/etc/passwd"), node("read", "ReadFile", "name")]
    nodes.append(node("x", "StringToNumber", "read"))
    error = refusal(read_source, pair(tmp_path, *nodes), "out", {"y": "sentence/bias:0"}, {})
    assert (error.where, error.what) == ("read", "ReadFile reads files")
    assert "source.trust=[ReadFile]" in error.todo


@pytest.mark.parametrize(
    ("op", "says"),
    [
        ("PyFunc", "Python code"),
        ("DebugIdentity", "writes files"),
        ("RpcCall", "other machines"),
        ("DatasetFromGraph", "program that is hidden"),
        ("ImmutableConst", "reads files"),
        ("BilateralSliceApplied", "is not an op that finetune knows"),
    ],
)
def test_what_an_op_does_is_said(op, says):
    source = graph(fed("x", 3), node("bad", op, "x"))
    error = refusal(check_graph, source)
    assert error.where == "bad"
    assert says in error.what
    check_graph(source, True)
    check_graph(source, [op])
    assert refusal(check_graph, source, ["Other"]).where == "bad"


def test_all_refused_ops_are_named():
    source = graph(*(node(op, op) for op in ("ReadFile", "WriteFile", "PyFunc", "Abort", "Recv", "SaveV2")))
    assert str(refusal(check_graph, source)).splitlines()[-1] == "  and Recv, SaveV2"


def test_the_way_into_functions_is_shown():
    inner = function("h", node("write", "WriteFile"))
    source = calling(function("f", call("c", "g")), function("g", call("c", "h")), inner)
    error = refusal(check_graph, source)
    assert (error.where, error.what) == ("call → f → g → h → write", "WriteFile writes files")


def test_functions_that_call_each_other_are_refused():
    source = calling(function("f", call("c", "g")), function("g", call("c", "f")))
    assert "f → g → f" in refusal(check_graph, source).what


def test_a_very_long_chain_of_functions_is_refused():
    chain = [function(f"f{i}", call("c", f"f{i + 1}")) for i in range(5000)]
    source = calling(function("f", call("c", "f0")), *chain, function("f5000"))
    assert "nested" in refusal(check_graph, source).what


def test_a_function_that_is_not_there_is_refused():
    assert "SymbolicGradient" in refusal(check_graph, graph(call("call", "SymbolicGradient"))).what


def test_what_the_cut_does_not_need_is_dropped_silently():
    source = graph(fed("x", 3), node("out", "Relu", "x"), node("bad", "PyFunc", "out"))
    check_graph(cut(source, ["out:0"]))


@pytest.mark.parametrize("sizes", [(2**16, 2**16), (-1, 3), (7,), (2**29,)])
def test_a_constant_is_what_it_says(sizes):
    bomb = constant("bomb", [1.0, 2.0], FLOAT)
    tensor = bomb.attr["value"].tensor
    tensor.tensor_shape.CopyFrom(shape(*sizes))
    if sizes == (2**29,):
        tensor.ClearField("tensor_content")
        tensor.float_val.append(1.0)
    assert refusal(check_graph, graph(bomb), True).where == "bomb"


def test_a_print_passes_its_value_on_and_an_assert_is_not_run():
    nodes = [fed("x", 3), node("say", "Print", "x", "x"), node("wrong", "Assert", "x"), node("out", "Relu", "say")]
    nodes[-1].input.append("^wrong")
    loud = graph(*nodes)
    below = cut(quiet(loud), ["out:0"])
    check_graph(below)
    assert (below.nodes["say"].op, list(below.nodes["say"].input)) == ("Identity", ["x"])
    assert bypassed(loud, below) == ["say", "wrong"]
    assert loud.nodes["say"].op == "Print"


def test_an_assert_in_a_function_becomes_nothing():
    loud = calling(function("f", node("wrong", "Assert", "a", "^b")))
    still = quiet(loud)
    check_graph(still)
    ((only,),) = [f.node_def for f in still.functions]
    assert (only.op, list(only.input)) == ("NoOp", ["^b"])
    assert bypassed(loud, still) == ["f → wrong"]


@every_golden
def test_what_a_backbone_is_made_of_is_allowed(name):
    about = golden(name)
    for phase in ("train", "eval"):
        check_graph(make_backbone(about.graph, [about.cut], about.inputs, about.feeds[phase]).graph)


OPS = """
from tensorflow.core.framework.op_def_pb2 import OpList
from tensorflow.python.client import pywrap_tf_session

print(*(op.name for op in OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())).op))
"""


def test_every_op_of_this_tensorflow_is_allowed_or_refused_for_a_reason():
    # In a process of its own: the converter to TFLite brings ops of its own into this one.
    listed = subprocess.run([sys.executable, "-c", OPS], capture_output=True, text=True, check=True)
    registered = set(listed.stdout.split())
    assert ALLOWED - registered == set()
    assert {op for op in registered if op not in ALLOWED and reason(op) is None} == set()


def test_a_value_is_the_same_without_its_print():
    import tensorflow as tf

    nodes = [constant("x", [1, 2], INT), node("say", "Print", "x", "x", T={"type": INT})]
    nodes[1].attr["U"].list.type.append(INT)
    loud = graph(*nodes)
    values = []
    for source in (loud, quiet(loud)):
        definition = tf.compat.v1.GraphDef(
            node=[tf.compat.v1.NodeDef.FromString(n.SerializeToString()) for n in source.nodes.values()]
        )
        with tf.Graph().as_default() as plain, tf.compat.v1.Session(graph=plain) as session:
            tf.import_graph_def(definition, name="")
            values.append(session.run("say:0").tolist())
    assert values == [[1, 2], [1, 2]]
