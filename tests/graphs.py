"""Graphs for tests: small ones built by hand, and those of the goldens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.examples.tasks import Task
from finetune.graph import Graph, constant, from_meta, make_node, to_meta
from finetune.protos import (
    AttrValue,
    CondContextDef,
    FunctionDef,
    GraphDef,
    MetaGraphDef,
    TensorShapeProto,
    VariableDef,
    WhileContextDef,
)
from finetune.reading import metagraph
from finetune.reading.variables import placeholder

FLOAT, INT, UINT8, STRING, INT64, BOOL = 1, 3, 4, 7, 9, 10
Size = int | None
GOLDENS = Path(__file__).parent / "goldens"


def graph(*nodes: Any, conds: Sequence[Any] = (), whiles: Sequence[Any] = ()) -> Graph:
    versions = GraphDef(versions={"producer": 27}).versions
    return Graph({node.name: node for node in nodes}, tuple(conds), tuple(whiles), versions=versions)


def node(name: str, op: str, *inputs: str, **attrs: Any) -> Any:
    """A node of float type, unless `T` or another attribute says otherwise."""
    return make_node(name, op, inputs, **{"T": {"type": FLOAT}, **attrs})


def fed(name: str, *sizes: Size, dtype: int = FLOAT) -> Any:
    return placeholder(name, dtype, shape(*sizes))


def variable(name: str, *sizes: Size, dtype: int = FLOAT, resource: bool = False) -> Any:
    op = "VarHandleOp" if resource else "VariableV2"
    return make_node(name, op, dtype={"type": dtype}, shape={"shape": shape(*sizes)}, shared_name={"s": b""})


def shape(*sizes: Size) -> Any:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1 if n is None else n) for n in sizes])


def shapes(*each: Sequence[Size]) -> dict[str, Any]:
    """What `_output_shapes` holds."""
    return {"list": AttrValue.ListValue(shape=[shape(*sizes) for sizes in each])}


def strings(name: str, *values: str) -> Any:
    """A constant of texts, as a Saver has them for names."""
    result = make_node(name, "Const", dtype={"type": STRING})
    tensor = result.attr["value"].tensor
    tensor.dtype = STRING
    tensor.tensor_shape.CopyFrom(shape(len(values)))
    tensor.string_val.extend(value.encode() for value in values)
    return result


def with_ops(source: Graph, **outputs: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Graph:
    """The graph with the definitions of some ops: name -> the fields of its outputs' `ArgDef`s."""
    ops = MetaGraphDef().meta_info_def.stripped_op_list
    for name, arguments in outputs.items():
        ops.op.add(name=name, output_arg=arguments)
    return Graph(source.nodes, source.conds, source.whiles, source.functions, source.versions, ops)


def meta_of(source: Graph, variables: Sequence[str] = (), trainable: Sequence[str] = (), **nodes: Sequence[str]) -> Any:
    """The file of a graph, with collections of variables and of nodes."""
    meta = to_meta(source)
    for collection, names in (("variables", variables), ("trainable_variables", trainable)):
        for name in names:
            definition = VariableDef(variable_name=f"{name}:0", initializer_name=f"{name}/Assign")
            meta.collection_def[collection].bytes_list.value.append(definition.SerializeToString())
    for collection, names in nodes.items():
        meta.collection_def[collection].node_list.value.extend(names)
    return meta


def stored(source: Graph) -> bytes:
    """Every byte of a graph, to see whether something has changed it."""
    return to_meta(source).SerializeToString(deterministic=True)


def refusal(call: Callable[..., Any], *args: Any, **kwargs: Any) -> UserError:
    """The error that a call ends in, which has at most five lines."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert len(str(caught.value).splitlines()) <= 5
    return caught.value


# ---- the goldens


@dataclass(frozen=True)
class Golden:
    folder: Path
    meta: Any
    graph: Graph
    cut: str
    inputs: Mapping[str, str]
    feeds: Mapping[str, Mapping[str, Any]]  # phase -> tensor -> value
    trainable: Sequence[str]
    keys: Mapping[str, str]


NAMES = sorted(path.parent.name for path in GOLDENS.glob("*/golden.json"))


@cache
def golden(name: str) -> Golden:
    folder = GOLDENS / name
    about = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    meta = metagraph.read(folder / f"{about['prefix']}.meta")
    feeds = {"train": about["train_feeds"], "eval": about["eval_feeds"]}
    return Golden(
        folder, meta, from_meta(meta), about["cut"], about["inputs"], feeds, about["trainable"], about["keys"]
    )


every_golden = pytest.mark.parametrize("name", NAMES)


# ---- functions


def function(name: str, arguments: Sequence[str], results: Mapping[str, str], *nodes: Any, **kinds: int) -> Any:
    """A `FunctionDef` of float arguments and results, unless `kinds` says otherwise of one."""
    new = FunctionDef(ret=results, node_def=nodes)
    new.signature.name = name
    for argument in arguments:
        new.signature.input_arg.add(name=argument, type=kinds.get(argument, FLOAT))
    for result in results:
        new.signature.output_arg.add(name=result, type=kinds.get(result, FLOAT))
    return new


def inner(name: str, op: str, *inputs: str, **attrs: Any) -> Any:
    """A node of a function, whose inputs are written `node:output_arg:index`."""
    result = node(name, op, **attrs)
    result.input.extend(inputs)
    return result


def call(name: str, called: str, *inputs: str, results: Sequence[int] = (FLOAT,)) -> Any:
    result = make_node(name, "PartitionedCall", (), Tout={"list": AttrValue.ListValue(type=results)})
    result.input.extend(inputs)
    result.attr["f"].func.name = called
    return result


def with_functions(source: Graph, *functions: Any, **ops: Sequence[str]) -> Graph:
    """The graph with a library, and with the definitions of some ops: name -> the names of its float outputs."""
    defined = with_ops(source, **{op: [{"name": o, "type": FLOAT} for o in names] for op, names in ops.items()})
    return replace(defined if ops else source, functions=functions)


# ---- control flow of TensorFlow 1


def cond_graph() -> Graph:
    """`out` is x * a where `training` holds, else x * b."""
    boolean = {"T": {"type": BOOL}}
    nodes = [
        fed("x", None, 3),
        fed("training", dtype=BOOL),
        variable("a", 3),
        variable("b", 3),
        node("cond/Switch", "Switch", "training", "training", **boolean),
        node("cond/switch_t", "Identity", "cond/Switch:1", **boolean),
        node("cond/switch_f", "Identity", "cond/Switch", **boolean),
        node("cond/pred_id", "Identity", "training", **boolean),
        node("cond/mul/Switch", "Switch", "x", "cond/pred_id"),
        node("cond/mul/Switch_1", "RefSwitch", "a", "cond/pred_id"),
        node("cond/mul", "Mul", "cond/mul/Switch:1", "cond/mul/Switch_1:1"),
        constant("cond/two", 2.0, FLOAT, ["^cond/switch_t"]),
        node("cond/twice", "Mul", "cond/mul", "cond/two"),
        node("cond/mul_1/Switch", "Switch", "x", "cond/pred_id"),
        node("cond/mul_1/Switch_1", "RefSwitch", "b", "cond/pred_id"),
        node("cond/mul_1", "Mul", "cond/mul_1/Switch", "cond/mul_1/Switch_1"),
        node("cond/Merge", "Merge", "cond/mul_1", "cond/twice", N={"i": 2}),
        node("out", "Relu", "cond/Merge"),
        node("taken", "Identity", "cond/Merge:1", T={"type": INT}),
    ]
    yes = CondContextDef(context_name="cond/cond_text", pred_name="cond/pred_id:0", pivot_name="cond/switch_t:0")
    no = CondContextDef(context_name="cond/cond_text_1", pred_name="cond/pred_id:0", pivot_name="cond/switch_f:0")
    yes.branch = 1
    _holds(
        yes,
        ["cond/switch_t:0", "cond/mul:0", "cond/two:0", "cond/twice:0"],
        x="cond/mul/Switch:1",
        a="cond/mul/Switch_1:1",
    )
    _holds(no, ["cond/switch_f:0", "cond/mul_1:0"], x="cond/mul_1/Switch:0", b="cond/mul_1/Switch_1:0")
    return graph(*nodes, conds=[yes, no])


def loop_graph(*body: Any, product: Sequence[str] = ("loop/x", "loop/w")) -> Graph:
    """`out` is x multiplied by w five times, in a `while_loop`; `idle` is the exit of its counter.

    Args:
      body: further nodes of the loop's body.
      product: what the body multiplies.
    """
    whole = {"T": {"type": INT}}
    frame = {"frame_name": {"s": b"loop/while_context"}, "parallel_iterations": {"i": 10}}
    nodes = [
        fed("x", None, 3),
        variable("w", 3),
        node("w/read", "Identity", "w"),
        constant("zero", 0, INT),
        node("loop/Enter", "Enter", "zero", **whole, **frame),
        node("loop/Enter_1", "Enter", "x", **frame),
        node("loop/Merge", "Merge", "loop/Enter", "loop/NextIteration", N={"i": 2}, **whole),
        node("loop/Merge_1", "Merge", "loop/Enter_1", "loop/NextIteration_1", N={"i": 2}),
        constant("loop/five", 5, INT, ["^loop/Merge"]),
        node("loop/Less", "Less", "loop/Merge", "loop/five", **whole),
        make_node("loop/LoopCond", "LoopCond", ["loop/Less"]),
        node("loop/Switch", "Switch", "loop/Merge", "loop/LoopCond", **whole),
        node("loop/Switch_1", "Switch", "loop/Merge_1", "loop/LoopCond"),
        node("loop/i", "Identity", "loop/Switch:1", **whole),
        node("loop/x", "Identity", "loop/Switch_1:1"),
        constant("loop/one", 1, INT, ["^loop/i"]),
        node("loop/Add", "AddV2", "loop/i", "loop/one", **whole),
        node("loop/w", "Enter", "w/read", is_constant={"b": True}, **frame),
        *body,
        node("loop/Mul", "Mul", *product),
        node("loop/NextIteration", "NextIteration", "loop/Add", **whole),
        node("loop/NextIteration_1", "NextIteration", "loop/Mul"),
        node("loop/Exit", "Exit", "loop/Switch", **whole),
        node("loop/Exit_1", "Exit", "loop/Switch_1"),
        node("out", "Relu", "loop/Exit_1"),
        node("idle", "Identity", "loop/Exit", **whole),
    ]
    context = WhileContextDef(
        context_name="loop/while_context",
        pivot_name="loop/LoopCond:0",
        pivot_for_pred_name="loop/Less:0",
        pivot_for_body_name="loop/i:0",
        loop_enter_names=["loop/Enter:0", "loop/Enter_1:0"],
        loop_exit_names=["loop/Exit:0", "loop/Exit_1:0"],
    )
    outside = {"x", "w", "w/read", "zero", "out", "idle"}
    inside = [n.name for n in nodes if n.name not in outside and n.name != "loop/w"]
    values = [f"{name}:0" for name in inside] + ["loop/Switch:1", "loop/Switch_1:1"]
    _holds(context, values, **{"w/read": "loop/w:0"})
    return graph(*nodes, whiles=[context])


def _holds(context: Any, values: Sequence[str], **external: str) -> None:
    """What is made in a context, and what comes in from outside: outer name -> the tensor that it is inside."""
    context.values_def.values.extend([*values, *(f"{name}:0" for name in external), *external.values()])
    for outer, inner in external.items():
        context.values_def.external_values[f"{outer}:0"] = inner


def softmax_of(classes: int, cut: str, name: str = "head") -> Task:
    """The task of a head that tells some classes apart."""
    return Task(name, cut, "labels", "softmax", tuple(map(str, range(classes))), classes)
