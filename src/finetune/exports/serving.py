"""The finished model as other programs run it: from what people have to what they want to know.

Made of the pair: mode feeds are constants, dead branches and dropout are gone, and what happened to an image before
training happens inside the graph. Variables stay placeholders, for one format holds them as variables, the others as
constants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.engine.compile import check_attributes
from finetune.errors import UserError
from finetune.examples import preprocess
from finetune.graph import Graph, to_meta
from finetune.names import node_of, unused
from finetune.protos import GraphDef
from finetune.reading.tables import Table, with_todays_tables
from finetune.results.card import Card, output_name
from finetune.surgery import specialize
from finetune.surgery.branches import fold
from finetune.surgery.cut import cut
from finetune.surgery.dropout import without_dropout
from finetune.surgery.parameters import as_parameters
from finetune.surgery.source import Kind, Source, read_source, read_values, resized

IMAGES = "images"  # what decoded images are called, whatever the source calls its input
LARGEST = 2**31 - 2**24  # bytes of one protobuf message, less what the graph itself may take
BYTES = "image_bytes"  # encoded ones; services that speak JSON ask for this ending


@dataclass(frozen=True)
class Serving:
    """A model that takes any number of examples.

    `inputs` are field -> the placeholder in `graph`, `batch_size` is what the pair itself takes at once, None if any.
    """

    graph: Graph
    card: Card
    source: Source
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    kinds: Mapping[str, Kind]
    values: Mapping[str, np.ndarray]
    tables: tuple[Table, ...]
    batch_size: int | None


@dataclass(frozen=True)
class Ends:
    """The tensors at both ends of a built graph, by name, and the op that fills its tables, if it has any."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    run_first: Any = None

    def of_numbers(self) -> Ends:
        """Without the outputs that are text."""
        return replace(self, outputs={n: t for n, t in self.outputs.items() if t.dtype != tf.string})

    def described(self) -> dict[str, Any]:
        """Both ends in words, for the card."""
        first = {} if self.run_first is None else {"run_first": self.run_first.name}
        ends = {"inputs": self.inputs, "outputs": self.outputs}
        return {key: {name: _about(tensor) for name, tensor in end.items()} for key, end in ends.items()} | first


def read_serving(folder: Path, card: Card) -> Serving:
    """The finished pair of a folder, made ready to be built.

    Raises:
      UserError: a file of the pair is missing or damaged, or has an op that is not allowed.
    """
    outputs = card.outputs()
    by_head = [next(iter(head.outputs.values())) for head in card.heads.values()]
    sources = [read_source(str(folder), at, card.inputs, card.feeds) for at in by_head]
    source = resized(sources[0], {1}, None)
    graph, inputs = _in_evaluation(source.whole, source.inputs, source.feeds, list(outputs.values()))
    values = {name: value for each in sources for name, value in read_values(each).items()}
    tables = {t.name: t for each in sources for t in each.tables}
    return Serving(
        graph=graph,
        card=card,
        source=source,
        inputs=inputs,
        outputs=outputs,
        kinds=source.input_kinds(),
        values={name: value for name, value in values.items() if name in graph.nodes},
        tables=tuple(t for t in tables.values() if t.name in graph.nodes),
        batch_size=sources[0].batch_size,
    )


def _in_evaluation(
    whole: Graph, inputs: Mapping[str, str], feeds: Mapping[str, Any], outputs: list[str]
) -> tuple[Graph, dict[str, str]]:
    below = cut(whole, outputs, [*inputs.values(), *feeds])
    below = specialize.with_constants(below, {t: v for t, v in feeds.items() if node_of(t) in below.nodes})
    below, names = specialize.with_placeholders(below, inputs)
    graph = specialize.portable(cut(without_dropout(fold(below)), outputs))
    return as_parameters(with_todays_tables(graph)), names


def build(serving: Serving, variables: Mapping[str, Any], inputs: Mapping[str, Any]) -> Ends:
    """Builds the model into the current plain graph.

    Args:
      variables: name -> tensor with the value of each.
      inputs: name -> tensor, as `feedable` makes them.
    """
    card = serving.card
    if card.images:
        given = {tensor: _prepared(serving, inputs[IMAGES]) for tensor in serving.inputs.values()}
    else:
        given = {tensor: inputs[field] for field, tensor in serving.inputs.items()}
    given |= {f"{name}:0": variables[name] for name in serving.values}
    given |= {f"{t.name}:0": _table(t) for t in serving.tables}
    check_attributes(serving.graph)
    definition, others = _besides(to_meta(serving.graph).graph_def, {node_of(tensor) for tensor in given})
    wanted = [_renamed(tensor, others) for tensor in serving.outputs.values()]
    found = tf.graph_util.import_graph_def(definition, given, wanted, name="")
    outputs = {name: _named(tensor, name) for name, tensor in zip(serving.outputs, found, strict=True)}
    for name, head in card.heads.items():
        if head.loss == "softmax" and head.classes:
            chosen = tf.argmax(outputs[output_name(card, name, "probabilities")], axis=-1)
            key = output_name(card, name, "classes")
            outputs[key] = _named(tf.gather(tf.constant(list(head.classes)), chosen), key)
    filling = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)
    return Ends(dict(inputs), outputs, tf.group(*filling, name=_free("fill_tables")) if filling else None)


def frozen_graph(serving: Serving, batch_size: int | None = None) -> tuple[Any, Ends]:
    """(`GraphDef`, its ends) with variables as constants; of fixed sizes if a batch size is given.

    Raises:
      UserError: the weights do not fit into one message of protobuf.
    """
    size = sum(value.nbytes for value in serving.values.values())
    if size > LARGEST:
        what = f"the weights are {size:,} bytes, and a graph that holds its weights has at most {LARGEST:,}"
        raise UserError("source", "--to", what, "--to savedmodel keeps them in files of their own")
    with tf.Graph().as_default() as graph:
        inputs = feedable(serving, batch_size)
        constants = {name: tf.constant(value, name=name) for name, value in serving.values.items()}
        ends = build(serving, constants, inputs)
        return graph.as_graph_def(), ends


def feedable(serving: Serving, batch_size: int | None = None) -> dict[str, Any]:
    """A placeholder for every input, by the name that people feed it under."""
    placeholder = tf.compat.v1.placeholder
    if (images := serving.card.images) is not None:
        size = images.size if batch_size else (None, None)
        return {IMAGES: placeholder(tf.float32, [batch_size, *size, images.channels], IMAGES)}
    found = {}
    for field, (dtype, shape) in serving.kinds.items():
        sizes = shape if shape is None else (batch_size, *shape[1:])
        found[field] = placeholder(tf.as_dtype(dtype), sizes, re.sub(r"[^A-Za-z0-9_.]", "_", field))
    return found


def _prepared(serving: Serving, images: Any) -> Any:
    """Images as the pair takes them, in a batch what `preprocess.prepare` does to one."""
    how = serving.card.images
    assert how is not None
    ((dtype, _),) = serving.kinds.values()
    return preprocess.prepare(images, how.size, how.preprocess, tf.as_dtype(dtype), how.crop)


def _table(table: Table) -> Any:
    contents = tf.lookup.KeyValueTensorInitializer(tf.constant(table.keys), tf.constant(table.values))
    # The default is an input of each lookup; this one is never given.
    return tf.lookup.StaticHashTable(contents, default_value=tf.zeros([], contents.value_dtype)).resource_handle


def _besides(definition: Any, given: set[str]) -> tuple[Any, dict[str, str]]:
    """The graph without the nodes that are given, and the other names of those whose own were taken."""
    taken = {op.name for op in tf.compat.v1.get_default_graph().get_operations()}
    left = [node for node in definition.node if node.name not in given]
    names = {node.name for node in left}
    others: dict[str, str] = {}
    for name in sorted(names & taken):
        others[name] = unused(name, {*names, *taken, *others.values()})
    result = GraphDef(versions=definition.versions, library=definition.library)
    for node in left:
        new = result.node.add()
        new.CopyFrom(node)
        new.name = others.get(node.name, node.name)
        new.input[:] = [_renamed(ref, others) for ref in node.input]
    return tf.compat.v1.GraphDef.FromString(result.SerializeToString()), others


def _renamed(ref: str, others: Mapping[str, str]) -> str:
    name = node_of(ref)
    return ref.replace(name, others[name], 1) if name in others else ref


def _named(tensor: Any, name: str) -> Any:
    return tf.identity(tensor, _free(name))


def _free(name: str) -> str:
    """A name that no node has yet, as TensorFlow would otherwise choose by rules of its own."""
    return unused(name, {op.name for op in tf.compat.v1.get_default_graph().get_operations()})


def _about(tensor: Any) -> dict[str, Any]:
    shape = None if tensor.shape.rank is None else tensor.shape.as_list()
    return {"tensor": tensor.name, "dtype": tensor.dtype.name, "shape": shape}
