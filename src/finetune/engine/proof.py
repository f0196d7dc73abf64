"""Proof of load: a run starts from the checkpoint's bits, and its backbone computes what the unsliced graph does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.bits import same_bits
from finetune.engine.compile import as_function, features_program, reason
from finetune.errors import UserError, printable, shortlist
from finetune.graph import Graph, ancestors, changed, control_inputs, data_inputs, to_meta
from finetune.names import node_of
from finetune.reading import weights
from finetune.reading.tables import Table
from finetune.reading.variables import find_variables
from finetune.surgery import trust
from finetune.surgery.backbone import Backbone, mode_feeds
from finetune.surgery.cut import cut, pruned
from finetune.surgery.source import Source, read_values
from finetune.surgery.specialize import portable, with_placeholders
from finetune.surgery.variants import Variants

tf1 = tf.compat.v1

# Larger graphs are not compared: on two cores TensorFlow takes 13 s for so many nodes, 4 s for so many bytes.
MOST_NODES = 50_000
MOST_BYTES = 300 << 20
MOST_REASON = 160  # characters

Run = Callable[[], list[np.ndarray]]  # features at each cut


@dataclass(frozen=True)
class Proof:
    """What was compared before the first step.

    `tensors` of the source are there, `identical` of them have the checkpoint's bits. `features` at the cut are
    "identical" to the unsliced graph's on a batch of `examples`, or they "differ", by `largest_difference` where that
    is a number; "random" if the unsliced graph differs from itself, or "not compared". `why` says more. `dropped`
    nodes are those of the unsliced graph that are not imported.
    """

    tensors: int
    identical: int
    features: str
    examples: int
    largest_difference: float | None = None
    why: str = ""
    dropped: int = 0

    def lines(self, at: str) -> list[str]:
        """Two lines for people; `at` are the cuts."""
        without = f" (without {self.dropped} nodes that finetune does not import)" if self.dropped else ""
        many = f"{self.examples} examples" if self.examples > 1 else "1 example"
        unsliced, probe = f"the unsliced graph's{without}", f"on a probe batch of {many}"
        told = {
            "identical": f"proof: features at {at} identical to {unsliced} {probe}",
            "differ": f"warning: features at {at} are not identical to {unsliced} {probe}: {self.why}",
            "random": f"warning: features at {at} are other ones each time ({self.why}), the unsliced graph's too; "
            "source.dropout=false switches off dropout that is baked in",
            "not compared": f"proof: features at {at} not compared with the unsliced graph's: {self.why}",
        }
        return [
            f"proof: {self.identical} of {self.tensors} tensors identical to the checkpoint",
            printable(told[self.features]),
        ]


def prove(source: Source, variants: Variants, values: Mapping[str, Any], inputs: Mapping[str, Any]) -> Proof:
    """Compares what a run starts from with the files that it came from.

    Args:
      values: the variables as the engine holds them, by name.
      inputs: a batch, by field.

    Raises:
      UserError: a variable is not what the checkpoint says. Features are only told of, never a reason to stop.
    """
    count, wrong = len(source.start.keys), differing(source, values)
    if wrong:
        what = f"{count - len(wrong)} of {count} tensors are identical to the checkpoint once they are loaded"
        what += f", {shortlist(wrong)} not"
        raise UserError("source", source.pair.prefix, what, "do not train on this; if it happens again, report it")
    proof = Proof(count, count, "not compared", len(next(iter(inputs.values()))))
    if source.image_size is not None:
        return replace(proof, why="the source was written for images of another size")
    source = source.fixed or source  # as it was before its batch size was rewritten
    nodes, size = len(source.whole.nodes), sum(node.ByteSize() for node in source.whole.nodes.values())
    if nodes > MOST_NODES or size > MOST_BYTES:
        return replace(proof, why=f"too large, {nodes:,} nodes of {size >> 20:,} MB")
    try:
        return _with_features(proof, source, variants, values, inputs)
    except Exception as error:
        # The other half of the file may hold anything; what TensorFlow says of it is no reason not to train.
        why = error.what if isinstance(error, UserError) else reason(error)
        return replace(proof, why=why if len(why) <= MOST_REASON else f"{why[:MOST_REASON]}…")


def differing(source: Source, values: Mapping[str, Any]) -> list[str]:
    """The variables that differ in a bit from the checkpoint, which is read once more, in another way."""
    keys = source.start.keys
    found = [v for v in source.variables if v.name in keys]
    pieces = [(keys[v.name], v.piece, v.dtype) for v in found]
    try:
        stored = dict(zip((v.name for v in found), weights.restore(source.pair.prefix, pieces), strict=True))
    except tf.errors.OpError:  # TensorFlow joins pieces of the commonest types only
        stored = read_values(source, allow_nonfinite=True)
    return [v.name for v in found if not same_bits(np.asarray(values[v.name]), stored[v.name])]


def _with_features(
    proof: Proof, source: Source, variants: Variants, values: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Proof:
    given = {tensor: np.asarray(inputs[field]) for field, tensor in source.inputs.items()}
    given |= mode_feeds(variants.feeds, "eval")
    graph, fed, dropped = unsliced(source, given)
    proof = replace(proof, dropped=dropped)
    feeds = {fed[tensor]: value for tensor, value in given.items()}
    ours = _engine_features(variants.evaluation, values, inputs)
    with _session(graph, source, values, feeds) as run:
        theirs = run()
        if all(map(same_bits, ours, theirs)):
            return replace(proof, features="identical", largest_difference=0.0)
        if not all(map(same_bits, theirs, run())):
            drawing = shortlist(list(variants.evaluation.draws)) or "none that is known"
            return replace(proof, features="random", why=f"random ops: {drawing}")
    found = list(map(largest_difference, ours, theirs))
    largest = None if None in found else max(d for d in found if d is not None)
    why = "they differ in shape, type or NaN" if largest is None else f"the largest difference is {largest:.2g}"
    return replace(proof, features="differ", largest_difference=largest, why=why)


def largest_difference(one: np.ndarray, other: np.ndarray) -> float | None:
    """How far two arrays are apart; None where no number tells it.

    >>> largest_difference(np.float32([1, np.nan]), np.float32([3, np.nan]))
    2.0
    >>> largest_difference(np.float32([1]), np.float32([np.nan]))
    """
    if one.shape != other.shape or object in (one.dtype, other.dtype):
        return None
    same = (one == other) | ((one != one) & (other != other))
    with np.errstate(all="ignore"):
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    largest = float(np.max(np.where(same, 0.0, apart), initial=0.0))
    return largest if np.isfinite(largest) else None


# ---- the unsliced graph


def unsliced(source: Source, fed: Iterable[str]) -> tuple[Graph, dict[str, str], int]:
    """The source's whole graph as TensorFlow may have it.

    Left out are the nodes that the cut does not need and that may not be imported, or that read one which may not.
    What is fed becomes a placeholder, for what gave it may be gone.

    Returns:
      The graph, the placeholder's tensor of each one in `fed`, and how many nodes were left out.

    Raises:
      UserError: a constant is not what it says, or a function calls itself.
    """
    whole, names = with_placeholders(source.whole, {tensor: tensor for tensor in fed})
    path = cut(whole, source.cuts)
    gone = _not_imported(whole, path)
    nodes = {name: _without_waiting(node, gone, path) for name, node in whole.nodes.items() if name not in gone}
    graph = portable(pruned(whole.with_nodes(nodes)))
    trust.check_graph(graph, trusted=True)  # its ops are known to be allowed; constants and recursion are not
    return graph, names, len(gone & whole.nodes.keys())


def _not_imported(whole: Graph, path: Graph) -> set[str]:
    """The nodes that may not be imported or are not in the file, with all that read one of them."""
    readers: dict[str, list[str]] = {}
    for node in whole.nodes.values():
        for ref in data_inputs(node):
            readers.setdefault(node_of(ref), []).append(node.name)
    gone = (trust.refused(whole) - path.nodes.keys()) | (readers.keys() - whole.nodes.keys())
    stack = list(gone)
    while stack:
        new = set(readers.get(stack.pop(), ())) - gone
        gone |= new
        stack.extend(new)
    return gone


def _without_waiting(node: Any, gone: set[str], path: Graph) -> Any:
    """The node, waiting no longer for what is gone; the cut knows what then holds it in its branch or loop."""
    waiting = [ref for ref in control_inputs(node) if node_of(ref) not in gone]
    if len(waiting) == len(control_inputs(node)):
        return node
    waiting += control_inputs(path.nodes[node.name]) if node.name in path.nodes else []
    return changed(node, input=[*data_inputs(node), *dict.fromkeys(waiting)])


# ---- both sides


@contextmanager
def _session(graph: Graph, source: Source, values: Mapping[str, Any], feeds: Mapping[str, Any]) -> Iterator[Run]:
    """The features of the unsliced graph in a session; none of the file's own initialisers or Savers is run."""
    meta = to_meta(graph)
    needed = ancestors(graph.nodes, source.cuts)
    held = _held(graph, needed, source, values)
    with tf.Graph().as_default() as imported:
        producers = meta.meta_info_def.stripped_op_list
        tf1.import_graph_def(meta.graph_def, name="", producer_op_list=producers)
        fills = [_filled(imported.get_tensor_by_name(f"{t.name}:0"), t) for t in source.tables if t.name in needed]
        given = {name: tf1.placeholder(value.dtype, value.shape) for name, value in held.items()}
        assigns = [_assigned(imported.get_tensor_by_name(f"{name}:0"), value) for name, value in given.items()]
        with tf1.Session(config=_config()) as session:
            session.run(fills)

            def run() -> list[np.ndarray]:
                # Anew for each run: some graphs assign variables while they compute.
                session.run(assigns, {given[name]: value for name, value in held.items()})
                return [np.asarray(found) for found in session.run(list(source.cuts), feeds)]

            yield run


def _held(graph: Graph, needed: set[str], source: Source, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The values of the variables that run, with those that are only waited for, as far as the checkpoint has them."""
    ours = {v.name for v in source.variables}
    variables = [v for v in find_variables(source.meta, graph) if v.name in needed]
    stored = weights.read_index(source.pair.prefix)
    others = [v for v in variables if v.name not in ours and v.key in stored]
    read = weights.restore(source.pair.prefix, [(v.key, v.piece, v.dtype) for v in others])
    held = {v.name: np.asarray(values[v.name]) for v in variables if v.name in ours}
    return {**held, **{v.name: value for v, value in zip(others, read, strict=True)}}


def _assigned(variable: Any, value: Any) -> Any:
    if variable.dtype == tf.resource:
        return tf.raw_ops.AssignVariableOp(resource=variable, value=value)
    return tf.raw_ops.Assign(ref=variable, value=value, validate_shape=False).op


def _filled(handle: Any, table: Table) -> Any:
    """Fills a table with what fills the engine's."""
    contents = {"table_handle": handle, "keys": tf.constant(table.keys), "values": tf.constant(table.values)}
    return (tf.raw_ops.InitializeTableV2 if handle.dtype == tf.resource else tf.raw_ops.InitializeTable)(**contents)


def _config() -> Any:
    """On the processor, with the engine's threads, and without the optimiser, which would put sums in another order."""
    config = tf1.ConfigProto(
        device_count={"GPU": 0},
        intra_op_parallelism_threads=tf.config.threading.get_intra_op_parallelism_threads(),
        inter_op_parallelism_threads=tf.config.threading.get_inter_op_parallelism_threads(),
    )
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def _engine_features(backbone: Backbone, values: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[np.ndarray]:
    """The features of the engine, on the processor and without the optimiser as well."""
    features = as_function(features_program(backbone))
    arguments = {f"variable/{name}": value for name, value in values.items()}
    arguments |= {"seed": (0, 0), **{f"input/{field}": array for field, array in inputs.items()}}
    before = tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        with tf.device("CPU:0"):
            found = features(arguments)
            return [found[f"features/{at}"].numpy() for at in backbone.shapes]
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})
