"""The finished model as a pair that plain TensorFlow loads.

The graph is the source's own up to the cut, not the one made for training: old names, live variables, mode feeds
that can still be fed. Each mode feed has its evaluation value as default; random ops and batch-norm updates stay, so
that the pair can be fine-tuned again. Initialisers are zeros: the source's own may hold a copy of its weights, or
anything else, and are not needed by anyone who restores.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.engine.compile import Graft, control_flow_v1
from finetune.graph import DTYPES, ENUMS, Graph, constant, make_node, to_meta
from finetune.names import node_of, unused
from finetune.protos import MetaGraphDef, SaverDef, VariableDef
from finetune.reading import metagraph
from finetune.reading.tables import Table
from finetune.reading.variables import Update, Variable, placeholder
from finetune.reading.weights import read_tensors
from finetune.results import checkpoints, manifests
from finetune.surgery import specialize
from finetune.surgery.cut import cut
from finetune.surgery.functions import with_names
from finetune.surgery.source import of_piece

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE


def make_pair_graph(
    meta: Any,
    whole: Graph,
    inputs: Mapping[str, str],
    feeds: Mapping[str, Any],
    updates: Sequence[Update],
    tables: Sequence[Table],
    variables: Sequence[Variable],
    shapes: Mapping[str, Sequence[int]],
    grafts: Sequence[Graft],
    cuts: Mapping[str, Sequence[int | None]],
) -> Any:
    """The `MetaGraphDef` of the grafted model.

    Args:
      meta, whole: the source.
      feeds: mode feeds with their evaluation values.
      shapes: the shape of each of the source's variables.
      cuts: the static shape of each cut.
    """
    beside = [*(u.node for u in updates), *(t.filled_by for t in tables)]
    graph = _source_part(whole, [*cuts, *beside], inputs, feeds)
    nodes, definitions = _with_initialisers(graph, variables, shapes, _definitions(meta))
    imported = to_meta(graph.with_nodes(nodes))
    for variable, definition in zip(variables, definitions, strict=True):
        content = definition.SerializeToString()
        imported.collection_def["variables"].bytes_list.value.append(content)
        if variable.trainable:
            imported.collection_def["trainable_variables"].bytes_list.value.append(content)
    # A name for a Saver that is never called; without one, `import_meta_graph` adds the nodes of a Saver to the graph.
    imported.saver_def.MergeFrom(
        SaverDef(filename_tensor_name="-", save_tensor_name="-", restore_op_name="-", version=SaverDef.V2)
    )
    if updates:
        kept = [f"{u.node}" for u in updates if u.node in nodes]
        imported.collection_def["update_ops"].node_list.value.extend(kept)
    if tables:
        imported.collection_def["table_initializer"].node_list.value.extend(t.filled_by for t in tables)
    with control_flow_v1(), tf.Graph().as_default() as plain:
        tf.compat.v1.train.import_meta_graph(imported)
        features = {at: plain.get_tensor_by_name(at) for at in cuts}
        for at, shape in cuts.items():
            features[at].set_shape(shape)
        for graft in grafts:
            at = graft.cut or next(iter(cuts))
            with tf.name_scope(f"{graft.scope}/"):
                head = {n: _variable(n, s) for n, s in graft.shapes.items()}
                logits = graft.apply(graft.flatten(features[at]), head)
                graft.loss.activation(logits, name=graft.loss.output)
        saver = tf.compat.v1.train.Saver(tf.compat.v1.global_variables(), max_to_keep=5)
        # Of a graph TensorFlow takes the nodes one by one, and lists all of them for each: the square of the time.
        nodes = plain.as_graph_def(add_shapes=True)
        exported = tf.compat.v1.train.export_meta_graph(
            graph=plain, graph_def=nodes, saver_def=saver.as_saver_def(), clear_devices=True, strip_default_attrs=True
        )
    return MetaGraphDef.FromString(exported.SerializeToString())


def _variable(name: str, shape: Sequence[int]) -> Any:
    # A reference variable: any TensorFlow that reads the source's pair reads this one.
    return tf.compat.v1.Variable(tf.zeros(shape), name=name, use_resource=False)


def _source_part(whole: Graph, outputs: Sequence[str], inputs: Mapping[str, str], feeds: Mapping[str, Any]) -> Graph:
    graph = cut(whole, outputs, [*inputs.values(), *feeds])
    for tensor, value in feeds.items():
        if node_of(tensor) in graph.nodes:
            graph = _with_default(graph, tensor, value)
    graph, _ = specialize.with_placeholders(graph, inputs)
    # Once more: a queue whose output was the input is not needed any longer.
    graph = with_names(cut(graph, outputs), whole)
    return specialize.portable(graph)


def _with_default(graph: Graph, tensor: str, value: Any) -> Graph:
    """The graph with a fed tensor as a placeholder that has the value unless it is fed."""
    dtype, _ = specialize.dtype_and_shape(graph, tensor)
    default = constant(unused(f"{node_of(tensor)}/default", graph.nodes), value, dtype)
    shape = placeholder("shape", dtype)  # any shape may be fed, as before
    node = make_node("value", "PlaceholderWithDefault", [default.name], dtype={"type": dtype})
    node.attr["shape"].CopyFrom(shape.attr["shape"])
    graph = specialize.replaced(graph, tensor, node)
    return graph.with_nodes({default.name: default, **graph.nodes})


def _definitions(meta: Any) -> dict[str, Any]:
    listed = [*metagraph.variable_defs(meta, "trainable_variables"), *metagraph.variable_defs(meta, "variables")]
    return {node_of(d.variable_name): d for d in listed}


def _with_initialisers(
    graph: Graph, variables: Sequence[Variable], shapes: Mapping[str, Sequence[int]], known: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Any]]:
    """The nodes with an initialiser for each variable, and the `VariableDef` of each."""
    nodes = dict(graph.nodes)
    definitions = []
    for variable in variables:
        dtype = {"type": variable.dtype}
        zeros = _zeros(variable, shapes[variable.name], nodes)
        read = _reader(variable, nodes)
        if variable.resource:
            assign = make_node(
                unused(f"{variable.name}/Assign", nodes), "AssignVariableOp", [variable.name, zeros], dtype=dtype
            )
        else:
            assign = make_node(unused(f"{variable.name}/Assign", nodes), "Assign", [variable.name, zeros], T=dtype)
        nodes[assign.name] = assign
        definition = VariableDef()
        if variable.name in known and known[variable.name].HasField("save_slice_info_def"):
            definition.save_slice_info_def.CopyFrom(known[variable.name].save_slice_info_def)
        definition.variable_name = f"{variable.name}:0"
        definition.initializer_name = assign.name
        definition.initial_value_name = f"{zeros}:0"
        definition.snapshot_name = f"{read}:0"
        definition.is_resource = variable.resource
        definition.trainable = variable.trainable
        definitions.append(definition)
    return nodes, definitions


def _zeros(variable: Variable, shape: Sequence[int], nodes: dict[str, Any]) -> str:
    base = unused(f"{variable.name}/Initializer/zeros", nodes)
    kind = np.dtype(DTYPES.get(variable.dtype, np.float32))
    dims = constant(f"{base}/shape", list(shape), 3)
    value = constant(f"{base}/value", np.zeros((), kind), ENUMS[kind])
    fill = make_node(base, "Fill", [dims.name, value.name], T={"type": variable.dtype}, index_type={"type": 3})
    for node in (dims, value, fill):
        nodes[node.name] = node
    return fill.name


def _reader(variable: Variable, nodes: dict[str, Any]) -> str:
    """The node that reads a variable: its own if the graph has one, else a new one."""
    wanted = "ReadVariableOp" if variable.resource else "Identity"
    usual = f"{variable.name}/{'Read/ReadVariableOp' if variable.resource else 'read'}"
    if usual in nodes and nodes[usual].op == wanted and list(nodes[usual].input) == [variable.name]:
        return usual
    name = unused(usual, nodes)
    key = "dtype" if variable.resource else "T"
    nodes[name] = make_node(name, wanted, [variable.name], **{key: {"type": variable.dtype}})
    return name


def write_pair(
    folder: Path,
    graph: Any,
    values: Mapping[str, Any],
    pieces: Mapping[str, tuple[str, str]],
    beside: Mapping[str, str],
    stem: str = "model",
) -> None:
    """Writes a folder that is a complete pair: graph, checkpoint, a relative `checkpoint` file, and texts beside it.

    There is the old one or the new one: see `take_place`.
    """
    aside = checkpoints.aside_of(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    checkpoints.write(aside, stem, values, pieces)
    checkpoints.write_bytes(aside / f"{stem}.meta", graph.SerializeToString())
    checkpoints.write_state(aside, checkpoints.State(stem, (stem,), (time.time(),)))
    for name, text in beside.items():
        checkpoints.write_text(aside / name, text)
    digests = {file.name: manifests.digest_of(file) for file in sorted(aside.iterdir())}
    checkpoints.write_text(aside / f"{stem}{manifests.ENDING}", manifests.listing(digests))
    take_place(aside, folder)


def take_place(aside: Path, folder: Path) -> None:
    """Puts a folder that was made aside, and synced, in the place of another one or of none.

    There is the old one or the new one. Where the file system has no exchange of two names there is neither for a
    moment; `mend` knows what a kill in it leaves.
    """
    before = folder.with_name(f".before-{folder.name}.{os.getpid()}")
    if _exchanged(aside, folder):
        before = aside
    else:
        if folder.exists():
            os.rename(folder, before)
        os.rename(aside, folder)
    checkpoints.sync_folder(folder.parent)
    shutil.rmtree(before, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Lets two folders change places in one moment; False if they did not. See renameat2(2), of Linux since 3.15."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # another system
        return False
    return not rename(_HERE, os.fsencode(one.absolute()), _HERE, os.fsencode(other.absolute()), _EXCHANGE)


def mend(folder: Path) -> None:
    """Makes whole what a kill left of `take_place`: the old folder, if it had its other name."""
    other = re.compile(rf"\.before-{re.escape(folder.name)}\.\d+")
    for old in list(folder.parent.iterdir()) if folder.parent.is_dir() else ():
        if not other.fullmatch(old.name):
            continue
        if folder.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, folder)


def read_back(
    folder: Path, names: Iterable[str], pieces: Mapping[str, tuple[str, str]], stem: str = "model"
) -> dict[str, Any]:
    """Variables as the written pair holds them, by name."""
    keys = {name: pieces.get(name, (name, "")) for name in names}
    stored = read_tensors(str(folder / stem), sorted({key for key, _ in keys.values()}))
    return {name: of_piece(stored[key], piece) for name, (key, piece) in keys.items()}
