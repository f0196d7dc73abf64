"""Pure functions from a grafted graph: evaluation, and a training step with its gradients.

Forward and backward are built in a plain `tf.Graph` and then imported together as one function. A `FuncGraph`
cannot differentiate V1 loops; a plain graph can, provided control flow v2 is off and the loops' contexts are there.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.eager.wrap_function import WrappedFunction
from tensorflow.python.framework import op_def_registry
from tensorflow.python.ops import control_flow_util

from finetune.engine.losses import LOSSES, Loss
from finetune.errors import UserError, shortlist
from finetune.graph import Graph, ancestors, to_meta
from finetune.names import node_of
from finetune.protos import GraphDef
from finetune.reading.tables import Table
from finetune.surgery.backbone import Backbone
from finetune.surgery.bodies import renamed
from finetune.surgery.randomness import SEED

TARGETS = "finetune/targets/"  # of a head, by its scope
SCALE = "finetune/loss_scale"
# CUDA's own words, which TensorFlow hands on in errors of several kinds. Those of which the fault may be the graph's,
# such as an image that no kernel was built for, are not among them: a run that has them has them again.
_NO_MEMORY = re.compile(r"CUDA_ERROR_OUT_OF_MEMORY|\w+_STATUS_ALLOC_FAILED")
_DEVICE_FAILED = re.compile(
    r"CUDA_ERROR_(ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|HARDWARE_STACK_ERROR|ILLEGAL_ADDRESS|LAUNCH_FAILED|"
    r"LAUNCH_TIMEOUT|NO_DEVICE|DEVICE_UNAVAILABLE|SYSTEM_NOT_READY|CONTEXT_IS_DESTROYED|DEINITIALIZED|UNKNOWN)\b|"
    r"GPU is lost|fallen off the bus"
)
_BARRIER = "put a gradient barrier above it with stop_gradient"


@dataclass(frozen=True)
class Graft:
    """A head to put on a backbone.

    `apply(features, variables)` gives logits from the features at `cut`, the first if it names none; with `dropout` it
    takes a third argument in training, a function that drops. `shapes` are those of the variables, by name inside
    `scope`. `loss` says how wrong logits are in the evaluation; in training that is `objective` where it differs.
    `target` is the dtype and shape of what is learnt, and `weight` what the head counts for in the loss of all heads.
    """

    scope: str
    shapes: Mapping[str, tuple[int, ...]]
    flatten: Callable[[Any], Any]
    apply: Callable[..., Any]
    loss: Loss = LOSSES["softmax"]
    objective: Callable[[Any, Any], Any] | None = None
    target: tuple[Any, tuple[int | None, ...]] = (tf.int64, (None,))
    weight: float = 1.0
    cut: str = ""
    dropout: float = 0.0  # of what its layers read, in training

    @property
    def variables(self) -> dict[str, tuple[int, ...]]:
        """The shapes by full name."""
        return {f"{self.scope}/{name}": shape for name, shape in self.shapes.items()}


@dataclass(frozen=True)
class Program:
    """A graph whose every input is a placeholder: tensor names by what they are for."""

    graph: Any  # GraphDef
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    tables: Sequence[Table] = ()


@contextmanager
def control_flow_v1() -> Iterator[None]:
    """TensorFlow with V1 control flow in plain graphs, for as long as one is built."""
    before = control_flow_util.ENABLE_CONTROL_FLOW_V2
    control_flow_util.ENABLE_CONTROL_FLOW_V2 = False
    try:
        yield
    finally:
        control_flow_util.ENABLE_CONTROL_FLOW_V2 = before


def check_attributes(graph: Graph) -> None:
    """Refuses attributes that this TensorFlow does not know, unless they have the default of the writer's TensorFlow.

    `import_meta_graph` drops them all and says nothing; what does not have its default changes what is computed.

    Raises:
      UserError: naming the node and the attribute.
    """
    stripped = graph.stripped_ops.op if graph.stripped_ops is not None else ()
    defaults = {op.name: {a.name: a.default_value for a in op.attr if a.HasField("default_value")} for op in stripped}
    for node in graph.nodes.values():
        definition = op_def_registry.get(node.op)
        known = node.attr.keys() if definition is None else {a.name for a in definition.attr}
        for key in sorted(k for k in node.attr.keys() - known if not k.startswith("_")):
            if node.attr[key] != defaults.get(node.op, {}).get(key):
                value = " ".join(str(node.attr[key]).split())
                what = f"{node.op} has the attribute '{key}' ({value}), which TensorFlow {tf.version.VERSION} has not"
                raise UserError("source", node.name, what, "use a newer TensorFlow, or cut below this node")


def import_graph(backbone: Backbone) -> dict[str, Any]:
    """Imports into the current plain graph; gives the tensor at each cut, its shape as known as it can be."""
    check_attributes(backbone.graph)
    try:
        tf.compat.v1.train.import_meta_graph(to_meta(backbone.graph))
    except (ValueError, tf.errors.OpError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = f"TensorFlow refuses the graph below {shortlist([repr(at) for at in backbone.shapes])}"
        raise UserError("source", "cut", what, first) from error
    plain = tf.compat.v1.get_default_graph()
    features = {at: plain.get_tensor_by_name(at) for at in backbone.shapes}
    for at, shape in backbone.shapes.items():
        # A recorded batch size is the author's; only the sizes behind it describe the feature.
        known = [None, *shape[1:]] if shape else []
        if shape is not None and features[at].shape.rank in (None, len(known)):
            with suppress(ValueError):  # a new input size has changed it, and inference knows better
                features[at].set_shape(known)
    return features


def feature_shapes(backbone: Backbone) -> dict[str, tuple[int | None, ...] | None]:
    """The static shape of each cut."""
    with control_flow_v1(), tf.Graph().as_default():
        shapes = {at: features.shape for at, features in import_graph(backbone).items()}
        return {at: None if shape.rank is None else tuple(shape.as_list()) for at, shape in shapes.items()}


def features_program(backbone: Backbone) -> Program:
    """The features alone, from inputs and variables: `features` at the first cut, and features/CUT at each."""
    with control_flow_v1(), tf.Graph().as_default() as graph:
        return _program(graph, backbone, _named(import_graph(backbone)))


def _named(features: Mapping[str, Any]) -> dict[str, Any]:
    return {"features": next(iter(features.values())), **{f"features/{at}": t for at, t in features.items()}}


def forward_program(backbone: Backbone, grafts: Sequence[Graft]) -> Program:
    """Features, and of each head HEAD/features [batch, width], HEAD/logits, what they mean, and HEAD/losses [batch].

    The inputs are the source's, the variables, and for the losses the targets of each head.
    """
    with control_flow_v1(), tf.Graph().as_default() as graph:
        features = import_graph(backbone)
        outputs = _named(features)
        for graft in grafts:
            flat, logits, targets = _head(graft, features)
            outputs[f"{graft.scope}/features"] = tf.reduce_mean(flat, axis=list(range(1, (flat.shape.rank or 0) - 1)))
            outputs[f"{graft.scope}/logits"] = logits
            outputs[f"{graft.scope}/{graft.loss.output}"] = graft.loss.activation(logits)
            outputs[f"{graft.scope}/losses"] = graft.loss.of(logits, targets)
        return _program(graph, backbone, outputs)


def step_program(
    backbone: Backbone,
    grafts: Sequence[Graft],
    learning: Mapping[str, bool],
    barriers: Sequence[str],
    is_scaled: bool = False,
) -> Program:
    """Loss and gradients of one batch, and the values that the source's own updates would assign.

    Where there are several heads, HEAD/loss is what each adds to the loss, weighed.

    Args:
      learning: the variables whose gradients are wanted, source's and heads', and whether somebody asked for each by
        name; the others are left out where no gradient reaches them.
      barriers: tensors through which no gradient passes.
      is_scaled: whether an input `scale` multiplies the gradients, from the loss on.

    Raises:
      UserError: no gradient reaches a variable that was asked for.
    """
    with control_flow_v1(), tf.Graph().as_default() as graph:
        features = import_graph(backbone)
        features = {at: tf.stop_gradient(tensor) if at in barriers else tensor for at, tensor in features.items()}
        outputs, losses = {}, {}
        for graft in grafts:
            _, logits, targets = _head(graft, features, training=True)
            objective = tf.reduce_mean((graft.objective or graft.loss.of)(logits, targets))
            losses[f"{graft.scope}/loss"] = objective if graft.weight == 1.0 else graft.weight * objective
            outputs[f"{graft.scope}/logits"] = logits
        loss = next(iter(losses.values())) if len(losses) == 1 else tf.add_n(list(losses.values()))
        tensors = [graph.get_tensor_by_name(f"{name}:0") for name in learning]
        stops = [graph.get_tensor_by_name(b) for b in barriers if node_of(b) in backbone.graph.nodes]
        scale = tf.compat.v1.placeholder(tf.float32, [], SCALE) if is_scaled else None
        gradients = dict(zip(learning, _gradients(loss, tensors, stops, scale), strict=True))
        for name, gradient in gradients.items():
            if gradient is None and learning[name]:
                what = f"no gradient reaches variable '{name}' from the loss"
                raise UserError("recipe", f"learn ({name})", what, "freeze it with a rule of rate 0 in learn")
        outputs |= {"loss": loss, **(losses if len(losses) > 1 else {})}
        outputs |= {f"gradient/{n}": tf.convert_to_tensor(g) for n, g in gradients.items() if g is not None}
        outputs |= {f"update/{u.variable}": graph.get_tensor_by_name(f"{u.node}:0") for u in backbone.updates}
        return _program(graph, backbone, outputs)


def _head(graft: Graft, features: Mapping[str, Any], training: bool = False) -> tuple[Any, Any, Any]:
    """The features as the head reads them, its logits, and the placeholder of its targets."""
    targets = tf.compat.v1.placeholder(*graft.target, TARGETS + graft.scope)
    head = {n: tf.compat.v1.placeholder(tf.float32, s, f"{graft.scope}/{n}") for n, s in graft.shapes.items()}
    flat = graft.flatten(features[graft.cut] if graft.cut else next(iter(features.values())))
    with tf.name_scope(f"{graft.scope}/"):
        if training and graft.dropout:
            return flat, graft.apply(flat, head, _dropout(graft)), targets
        return flat, graft.apply(flat, head), targets


def _dropout(graft: Graft) -> Callable[[Any], Any]:
    """Dropout that is a function of the step's seed, of the head, and of how often it was asked for before."""
    graph = tf.compat.v1.get_default_graph()
    try:
        seed = graph.get_tensor_by_name(f"{SEED}:0")
    except KeyError:  # nothing in the backbone draws
        with tf.name_scope(""):
            seed = tf.compat.v1.placeholder(tf.int32, [2], SEED)
    numbers = itertools.count(zlib.crc32(graft.scope.encode()) & 0x7FFFFFFF)

    def drop(tensor: Any) -> Any:
        own = tf.random.experimental.stateless_fold_in(seed, next(numbers))
        return tf.nn.experimental.stateless_dropout(tensor, graft.dropout, own)

    return drop


def _gradients(loss: Any, tensors: Sequence[Any], stops: Sequence[Any], scale: Any) -> list[Any]:
    try:
        return tf.compat.v1.gradients(loss, tensors, grad_ys=scale, stop_gradients=stops)
    except LookupError as error:
        raise UserError("source", "learn", str(error).splitlines()[0], _BARRIER) from error
    except AttributeError as error:  # from TensorFlow, which asks the context of a loop for the one around it
        lost = [op.name for op in loss.graph.get_operations() if op.type == "LoopCond" and not _has_context(op)]
        if not lost:
            raise
        what = f"the file has no context for the loop at '{lost[0]}', so no gradient can pass it"
        raise UserError("source", "learn", what, _BARRIER) from error


def _has_context(op: Any) -> bool:
    return op._get_control_flow_context() is not None


def _program(graph: Any, backbone: Backbone, outputs: Mapping[str, Any]) -> Program:
    definition = GraphDef.FromString(graph.as_graph_def().SerializeToString())
    placeholders = {n.name for n in definition.node if n.op == "Placeholder"}
    fields = set(map(node_of, backbone.inputs.values()))
    inputs = {f"input/{name}": tensor for name, tensor in backbone.inputs.items()}
    targets = {name for name in placeholders if name.startswith(TARGETS)}
    inputs |= {f"variable/{n}": f"{n}:0" for n in placeholders - fields - targets - {SEED, SCALE}}
    inputs |= {f"target/{name.removeprefix(TARGETS)}": f"{name}:0" for name in targets}
    inputs |= {"seed": f"{SEED}:0"} if SEED in placeholders else {}
    inputs |= {"scale": f"{SCALE}:0"} if SCALE in placeholders else {}
    for node in definition.node:
        # The gradients of V1 loops colocate their stacks with nodes of the loop, by name.
        node.device = ""
        node.attr.pop("_class", None)
    # Two programs of one source may have different functions of one name.
    content = definition.library.SerializeToString(deterministic=True)
    definition = renamed(definition, f"_{hashlib.sha256(content).hexdigest()[:16]}")
    return Program(definition, inputs, {name: tensor.name for name, tensor in outputs.items()}, backbone.tables)


def as_function(
    program: Program, wanted: Sequence[str] | None = None, xla: bool = False, apart: bool = False
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The program as a function from tensors by name to tensors by name, callable inside a `tf.function`.

    Only the inputs that the wanted outputs need have to be given; more may be given.

    `wrap_function` does the import: the automatic control dependencies of `tf.function` would put a `NoOp` into a
    loop's frame. With `xla` it is compiled, for each shape of its inputs anew. One that is `apart` stays a function of
    its own where it is called, so that its last bits are those of a call by itself, which are a TensorFlow-1
    session's: otherwise TensorFlow optimises it together with what is around it.
    """
    wanted = list(program.outputs) if wanted is None else list(wanted)
    nodes = {n.name: n for n in program.graph.node}
    needed = ancestors(nodes, [program.outputs[w] for w in wanted])
    names = sorted(name for name, tensor in program.inputs.items() if node_of(tensor) in needed)
    specs = []
    for name in names:
        attr = nodes[node_of(program.inputs[name])].attr
        specs.append(tf.TensorSpec(tf.TensorShape(attr["shape"].shape), tf.as_dtype(attr["dtype"].type), node_of(name)))
    definition = tf.compat.v1.GraphDef()
    definition.CopyFrom(program.graph)
    del definition.node[:]
    tables = {f"{t.name}:0": _made(t) for t in program.tables if t.name in needed}
    fed = {node_of(tensor) for tensor in (*tables, *(program.inputs[name] for name in names))}
    definition.node.extend(n for n in program.graph.node if n.name in needed and n.name not in fed)

    def imported(*arguments: Any) -> list[Any]:
        tensors = {program.inputs[name]: argument for name, argument in zip(names, arguments, strict=True)}
        direct = {w: tensors[program.outputs[w]] for w in wanted if program.outputs[w] in tensors}
        returned = [program.outputs[w] for w in wanted if w not in direct]
        tensors |= {tensor: tf.identity(table.resource_handle) for tensor, table in tables.items()}
        results = iter(tf.graph_util.import_graph_def(definition, tensors, returned, name=""))
        return [tf.identity(direct[w]) if w in direct else next(results) for w in wanted]

    function = tf.compat.v1.wrap_function(imported, [tf.TensorSpec(s.shape, s.dtype) for s in specs])
    if xla:
        function = tf.function(function, jit_compile=True)
    elif apart:  # `wrap_function` has no word for it, its class has
        words = function.graph, function._variable_holder
        function = WrappedFunction(*words, attrs={"_noinline": True}, signature=function._signature)

    def call(values: Mapping[str, Any]) -> dict[str, Any]:
        with explained():
            return dict(zip(wanted, function(*(values[name] for name in names)), strict=True))

    return call


@contextmanager
def explained() -> Iterator[None]:
    """Says what users can do about what TensorFlow finds wrong when it computes.

    Raises:
      UserError: in the place of TensorFlow's error.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if refused := re.search(r"XLA_\w+: (\w+) \(.*?{{node ([^}]+)}}", str(error)):
            what = f"XLA cannot compile {refused[1]} (node '{refused[2]}')"
            raise UserError("recipe", "train.xla", what, _without_xla(refused[1])) from error
        if "compile-time constant" in str(error):
            raise UserError("recipe", "train.xla", f"XLA: {reason(error)}", _without_xla()) from error
        if lacking := re.search(
            r"No OpKernel was registered to support Op '(\w+)' used by {{node ([^}]+)}}", str(error)
        ):
            what = f"TensorFlow has no kernel for {lacking[1]} on this machine's devices"
            raise UserError("source", lacking[2], what, "some ops need a GPU; or cut below this node") from error
        what = f"the graph cannot compute with this batch: {reason(error)}"
        raise UserError("data", "source.inputs", what, "compare the shapes of the examples with the inputs") from error
    except UnicodeDecodeError as error:  # a name in the file, which TensorFlow's own message repeats
        what = "the graph cannot compute with this batch, and what TensorFlow says about it is no text"
        raise UserError("source", "cut", what, "is the .meta damaged? copy it again") from error
    except tf.errors.OpError as error:
        if isinstance(error, tf.errors.ResourceExhaustedError) or _NO_MEMORY.search(str(error)):
            what = f"the memory is too small for this batch: {reason(error)}"
            raise UserError("data", "train.batch_size", what, "use smaller batches") from error
        if isinstance(error, tf.errors.UnavailableError | tf.errors.AbortedError) or _DEVICE_FAILED.search(str(error)):
            what = f"a device failed: {reason(error)}"
            raise UserError("machine", "device", what, "the same command goes on from the last save") from error
        raise UserError("source", "cut", f"TensorFlow cannot run the graph: {reason(error)}") from error


def _without_xla(op: str = "") -> str:
    is_v1_control = op in ("Enter", "Exit", "Switch", "Merge", "NextIteration", "LoopCond")
    return f"take train.xla back{': it takes no loops and branches of TensorFlow 1' if is_v1_control else ''}"


def _made(table: Table) -> Any:
    contents = tf.lookup.KeyValueTensorInitializer(tf.constant(table.keys), tf.constant(table.values))
    # The default is an input of each lookup; this one is never given.
    return tf.lookup.StaticHashTable(contents, default_value=tf.zeros([], contents.value_dtype))


def reason(error: Exception) -> str:
    """What TensorFlow means, out of the many lines in which it says so."""
    lines = [line.strip() for line in str(getattr(error, "message", error)).splitlines() if line.strip()]
    marked = [i for i, line in enumerate(lines) if line.startswith("[[{{node")]
    where = re.search(r"{{node ([^}]+)}}", lines[marked[0]]) if marked else None
    meant = lines[marked[0] - 1] if marked and marked[0] else (lines or [type(error).__name__])[0]
    return f"{meant} (node '{where[1]}')" if where else meant
