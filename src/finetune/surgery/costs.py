"""How large the constant parts of a graph become once they are computed, by plain arithmetic.

TensorFlow computes what depends on constants alone while it imports a graph, or just before it runs it, and a `Fill`
of two small numbers can take all the memory there is. What is worked out here are shapes, and the few values that
shapes are made of. Sizes that depend on the data are not looked at: they are as large as the batch makes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.graph import DTYPES, attr, data_inputs, read_constant
from finetune.names import node_of

MOST_VALUES = 2**28  # in one tensor; of a text each byte counts
MOST_DIMENSIONS = 254  # what TensorFlow can represent
_MOST_FOLLOWED = 2**12  # values, which no shape has

Shape = tuple[int, ...]


def _ops(names: str, place: int = 0) -> dict[str, int]:
    return dict.fromkeys(names.split(), place)


# Ops that an input tells how large to become -> which input. It is their shape …
_TO_A_SHAPE = {
    **_ops("Fill Empty Conv2DBackpropInput Conv3DBackpropInputV2 DepthwiseConv2dNativeBackpropInput"),
    **_ops("RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal ParameterizedTruncatedNormal"),
    **_ops("StatelessRandomUniform StatelessRandomUniformV2 StatelessRandomNormal StatelessRandomNormalV2"),
    **_ops("StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessTruncatedNormal"),
    **_ops("StatelessTruncatedNormalV2 StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2"),
    **_ops("BroadcastTo Reshape SparseToDense StatefulStandardNormal", 1),
    **_ops("ScatterNd StatefulStandardNormalV2 StatefulTruncatedNormal StatefulUniform StatefulUniformInt", 2),
}
# … or as many values for each value of the first input …
_TIMES = _ops("Tile OneHot Multinomial StatelessMultinomial", 1)
# … or as many on each side of the first input …
_PADS = _ops("Pad PadV2 MirrorPad", 1)
# … or as many at least.
_AT_LEAST = {
    **_ops("TensorArray TensorArrayV2 TensorArrayV3 RandomGamma RandomPoisson RandomPoissonV2"),
    **_ops("StatelessRandomGammaV2 StatelessRandomGammaV3 StatelessRandomBinomial StatelessRandomPoisson"),
    **_ops("ResizeBilinear ResizeBicubic ResizeArea ResizeNearestNeighbor ExtractGlimpse ScaleAndTranslate", 1),
    **_ops("RFFT RFFT2D RFFT3D IRFFT IRFFT2D IRFFT3D Bincount DenseBincount TensorListReserve TensorListResize", 1),
    **_ops("LinSpace UnsortedSegmentSum UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd", 2),
    **_ops("HistogramFixedWidth ImageProjectiveTransformV2 ImageProjectiveTransformV3 MatrixDiagV2 MatrixDiagV3", 2),
    **_ops("CropAndResize SparseSegmentSumWithNumSegments SparseSegmentMeanWithNumSegments", 3),
}
_SIZED = _TO_A_SHAPE | _TIMES | _PADS | _AT_LEAST

_SAME = _ops(
    "Identity Snapshot StopGradient PreventGradient CheckNumerics DeepCopy GuaranteeConst PlaceholderWithDefault"
    " Switch Enter Exit EnsureShape"
)
# Element by element, and what else keeps the shape that its inputs have in common.
_ALIKE = _ops(
    "Acos Acosh Add AddN AddV2 Angle Asin Asinh Atan Atan2 Atanh Betainc Bitcast Cast ClipByValue Complex ComplexAbs"
    " Conj Cos Cosh Cross Cumprod Cumsum Digamma Div DivNoNan Elu Erf Erfc Expm1 Igamma Igammac Imag Invert IsFinite"
    " IsInf IsNan LeftShift Lgamma Log1p LogSoftmax MatrixBandPart MulNoNan NextAfter Polygamma Real Reciprocal Relu"
    " Relu6 ReverseV2 RightShift Rsqrt Select Selu Sigmoid Sin Sinh Softmax Softplus Softsign SquaredDifference Tan"
    " Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy Zeta"
)
_SQUARED = _ops("Diag MatrixDiag BatchMatrixDiag MatrixDiagV2 MatrixDiagV3")
# At most as many values as those of the inputs multiplied.
_PRODUCTS = _ops(
    "MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum Gather GatherV2 GatherNd"
    " StringJoin ReduceJoin StringFormat RegexReplace UnsortedSegmentJoin SparseCross"
)
_NUMPY: dict[str, Callable[..., Any]] = {
    **{"Abs": np.abs, "Neg": np.negative, "Ceil": np.ceil, "Floor": np.floor, "Rint": np.rint, "Round": np.rint},
    **{"Sqrt": np.sqrt, "Square": np.square, "Exp": np.exp, "Log": np.log, "Sign": np.sign, "Inv": np.reciprocal},
    **{"Add": np.add, "AddV2": np.add, "Sub": np.subtract, "Mul": np.multiply, "Pow": np.power, "RealDiv": np.divide},
    **{"Maximum": np.maximum, "Minimum": np.minimum, "FloorDiv": np.floor_divide, "FloorMod": np.mod, "Mod": np.fmod},
    **{"Equal": np.equal, "NotEqual": np.not_equal, "Less": np.less, "LessEqual": np.less_equal},
    **{"Greater": np.greater, "GreaterEqual": np.greater_equal, "LogicalNot": np.logical_not},
    **{"LogicalAnd": np.logical_and, "LogicalOr": np.logical_or, "SelectV2": np.where, "BitwiseAnd": np.bitwise_and},
    **{"BitwiseOr": np.bitwise_or, "BitwiseXor": np.bitwise_xor, "ZerosLike": np.zeros_like, "OnesLike": np.ones_like},
    **{"Div": lambda x, y: np.trunc(x / y).astype(x.dtype) if x.dtype.kind in "iu" else x / y},
}
_REDUCED = {"Sum": np.sum, "Prod": np.prod, "Max": np.max, "Min": np.min, "Mean": np.mean, "All": np.all, "Any": np.any}
_MEASURES: dict[str, Callable[[Shape], Any]] = {"Shape": tuple, "Rank": len, "Size": math.prod}


@dataclass(frozen=True)
class Part:
    """A tensor that depends on constants alone: its shape and its value, as far as they are followed.

    `count` is the number of values, or a bound on it; of texts, of bytes.
    """

    shape: Shape | None
    count: int
    value: np.ndarray | None = None


def too_large(nodes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """The nodes that make too much of constants, each with what it makes; not those that only read one of them.

    Args:
      nodes: those of a graph, or of the body of a function.
    """
    nodes = {node.name: node for node in nodes}
    waiting: dict[str, int] = {}
    readers: dict[str, list[str]] = {}
    for node in nodes.values():
        sources = {node_of(ref) for ref in data_inputs(node)}
        waiting[node.name] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(node.name)
    parts: dict[str, Part] = {}
    ready = [node.name for node in nodes.values() if node.op == "Const"]
    for name in ready:  # grows; what stands in a circle, or reads data, never gets ready
        node = nodes[name]
        inputs = [part for ref in data_inputs(node) if (part := _output(parts, ref)) is not None]
        if problem := _told(node, inputs):
            yield name, problem
            continue
        part = _constant(node) if node.op == "Const" else _part(node, inputs)
        if part.count > MOST_VALUES:
            yield name, _said(node, part.count)
            continue
        parts[name] = part
        for reader in readers.get(name, ()):
            waiting[reader] -= 1
            if not waiting[reader] and nodes[reader].op != "Const":
                ready.append(reader)
    for name, node in nodes.items():  # those of which only the size is constant
        if name not in parts and node.op in _SIZED:
            problem = _told(node, [_output(parts, ref) for ref in data_inputs(node)])
            if problem:
                yield name, problem


def _output(parts: Mapping[str, Part], ref: str) -> Part | None:
    part = parts.get(node_of(ref))
    if part is None or ref.rpartition(":")[2] in (ref, "0"):
        return part
    # Which of several outputs has which value is not followed; those of which a shape is have it in common.
    return Part(part.shape, part.count)


def _told(node: Any, inputs: Sequence[Part | None]) -> str:
    """What is wrong with the size that an op is told, if that is constant; other inputs may be data (None)."""
    place = _SIZED.get(node.op)
    if place is not None and place >= len(inputs):
        return f"{node.op} lacks the input that says how large it becomes"
    sizes = inputs if node.op == "Range" else [] if place is None else [inputs[place]]
    for size in sizes:
        if size is None:
            return ""
        if size.count > 2 * MOST_DIMENSIONS:  # a padding is two numbers for each
            return f"{node.op} is told a shape of {size.count:,} dimensions"
        if size.value is None and node.op != "Reshape":  # which gives as many values as it gets
            return f"{node.op} is told a size that cannot be known before it is run"
        if size.value is not None and size.value.dtype.kind not in ("iuf" if node.op == "Range" else "iu"):
            return f"{node.op} is told a size that is no number"
    count = _count(node, inputs) if sizes else 0
    return _said(node, count) if count > MOST_VALUES else ""


def _said(node: Any, count: int) -> str:
    return f"{node.op} makes {count:,} values out of constants" if count < 10**30 else f"{node.op} makes endless values"


def _count(node: Any, inputs: Sequence[Part | None]) -> int:
    """How many values an op makes that is told a size: at least as many, where another input is data."""
    told = [i.value for i in inputs if i is not None and i.value is not None] if node.op == "Range" else []
    if node.op == "Range":
        start, limit, step = (float(v.reshape(-1)[0]) if v.size else 0.0 for v in told) if len(told) == 3 else (0, 0, 1)
        return max(0, math.ceil((limit - start) / step)) if step and math.isfinite(limit - start) else 0
    size, first = inputs[_SIZED[node.op]], inputs[0]
    if size is None or size.value is None or node.op == "Reshape":
        return 0
    numbers = [max(int(n), 0) for n in size.value.reshape(-1).tolist()]
    if node.op not in _PADS:
        return math.prod(numbers) * (first.count if first is not None and node.op in _TIMES else 1)
    shape = (1,) * (len(numbers) // 2) if first is None or first.shape is None else first.shape
    return math.prod(n + a + b for n, a, b in zip(shape, numbers[::2], numbers[1::2], strict=False))


def _constant(node: Any) -> Part:
    tensor = attr(node, "value").tensor
    shape = tuple(d.size for d in tensor.tensor_shape.dim)
    count, text = math.prod(shape), sum(map(len, tensor.string_val))
    value = read_constant(node) if count <= _MOST_FOLLOWED and not text else None
    return Part(shape, max(count, text), value)


def _part(node: Any, inputs: Sequence[Part]) -> Part:
    """What a node makes of constants."""
    try:
        with np.errstate(all="ignore"):
            shape = _shape(node, inputs)
            count = _bound(node, inputs) if shape is None else math.prod(shape)
            values = [i.value for i in inputs if i.value is not None]
            known = node.op in _MEASURES or len(values) == len(inputs)
            value = _value(node, inputs, values) if known and count <= _MOST_FOLLOWED else None
    except (ValueError, TypeError, IndexError, ArithmeticError, KeyError):
        return Part(None, _bound(node, inputs))  # TensorFlow will refuse this node, and say why
    return Part(shape, count) if value is None else Part(value.shape, value.size, value)


def _bound(node: Any, inputs: Sequence[Part]) -> int:
    """The most values that an op makes whose shape is not followed."""
    counts = [max(i.count, 1) for i in inputs]
    if node.op in _SIZED and node.op != "Reshape":
        return max(*counts, _count(node, inputs))
    if node.op in _SQUARED:
        return counts[0] ** 2
    if node.op in _PRODUCTS or node.op in _ALIKE or node.op in _NUMPY:
        return math.prod(counts)
    return counts[0] if node.op in _REDUCED else sum(counts)  # the others choose, join or reorder


def _shape(node: Any, inputs: Sequence[Part]) -> Shape | None:
    """The shape of what an op makes, where it follows from shapes and small values."""
    shapes, values = [i.shape for i in inputs], [i.value for i in inputs]
    first = shapes[0]
    if node.op in _TO_A_SHAPE and node.op != "Reshape" and (size := values[_TO_A_SHAPE[node.op]]) is not None:
        return tuple(int(n) for n in size.reshape(-1))
    if node.op == "Range":
        return (_count(node, inputs),)
    if first is None:
        return None
    known = [s for s in shapes if s is not None]
    if node.op in _SAME:
        return first
    if node.op in _MEASURES:
        return np.shape(_MEASURES[node.op](first))
    if (node.op in _ALIKE or node.op in _NUMPY) and len(known) == len(shapes):
        return np.broadcast_shapes(*known)
    if node.op == "Pack" and len(known) == len(shapes):
        axis = attr(node, "axis").i % (len(first) + 1)
        return (*first[:axis], len(known), *first[axis:])
    if node.op == "Split" and values[0] is not None and len(shapes) == 2 and (whole := shapes[1]) is not None:
        axis = int(values[0].reshape(-1)[0]) % len(whole)
        return (*whole[:axis], whole[axis] // max(1, attr(node, "num_split").i), *whole[axis + 1 :])
    if node.op == "Unpack":
        axis = attr(node, "axis").i % len(first)
        return (*first[:axis], *first[axis + 1 :])
    if node.op == "MatMul" and len(known) == 2:
        (a, b), (c, d) = known
        return (b if attr(node, "transpose_a").b else a, c if attr(node, "transpose_b").b else d)
    if len(values) < 2 or (told := values[1]) is None:
        return None
    if node.op == "Reshape":
        sizes = [int(n) for n in told.reshape(-1)]
        rest = math.prod(first) // max(1, math.prod(n for n in sizes if n >= 0))
        return tuple(rest if n < 0 else n for n in sizes)
    if node.op == "ExpandDims":
        axis = int(told.reshape(-1)[0]) % (len(first) + 1)
        return (*first[:axis], 1, *first[axis:])
    if node.op == "Transpose":
        return tuple(first[int(axis)] for axis in told)
    if node.op == "Tile":
        return tuple(n * int(times) for n, times in zip(first, told, strict=True))
    if node.op in _PADS:
        return tuple(n + int(a) + int(b) for n, (a, b) in zip(first, told, strict=True))
    if node.op in _REDUCED:
        gone = {int(axis) % max(len(first), 1) for axis in told.reshape(-1)}
        kept = [1 if axis in gone else n for axis, n in enumerate(first)]
        return tuple(n for axis, n in enumerate(kept) if attr(node, "keep_dims").b or axis not in gone)
    return None


def _value(node: Any, inputs: Sequence[Part], values: Sequence[np.ndarray]) -> np.ndarray | None:
    """The value of a node whose inputs are small; None if its op is not followed."""
    if node.op in _SAME:
        return values[0]
    if node.op in _MEASURES:
        return None if inputs[0].shape is None else np.array(_MEASURES[node.op](inputs[0].shape), np.int64)
    if node.op == "BroadcastArgs":
        return np.array(np.broadcast_shapes(*(tuple(v.tolist()) for v in values)), values[0].dtype)
    if node.op == "Where":
        return np.argwhere(values[0])
    if node.op == "ListDiff":
        return values[0][~np.isin(values[0], values[1])]
    if node.op == "InvertPermutation":
        return np.argsort(values[0])
    if node.op in _NUMPY:
        return np.asarray(_NUMPY[node.op](*values))
    if node.op == "Cast":
        return values[0].astype(DTYPES[attr(node, "DstT").type])
    if node.op == "Pack":
        return np.stack(values, axis=attr(node, "axis").i)
    if node.op in ("ConcatV2", "Concat"):
        joined, axis = (values[:-1], values[-1]) if node.op == "ConcatV2" else (values[1:], values[0])
        return np.concatenate(joined, axis=int(axis))
    if node.op in _REDUCED:
        axes = tuple(int(axis) for axis in values[1].reshape(-1))
        return np.asarray(_REDUCED[node.op](values[0], axis=axes, keepdims=attr(node, "keep_dims").b))
    if node.op in ("Gather", "GatherV2"):
        return np.take(values[0], values[1], axis=int(values[2]) if len(values) > 2 else 0)
    if node.op == "Slice":
        ends = [None if n < 0 else b + n for b, n in zip(values[1], values[2], strict=True)]
        return values[0][tuple(slice(int(b), e) for b, e in zip(values[1], ends, strict=True))]
    if node.op == "StridedSlice":
        return _sliced(node, *values)
    if node.op == "Squeeze":
        return np.squeeze(values[0], tuple(attr(node, "squeeze_dims").list.i) or None)
    if node.op == "Range":
        return np.arange(*(v.reshape(-1)[0] for v in values), dtype=values[0].dtype)
    if node.op == "DynamicStitch":
        half = len(values) // 2
        places, stitched = (np.concatenate([v.reshape(-1) for v in each]) for each in (values[:half], values[half:]))
        if places.max() >= _MOST_FOLLOWED:
            return None
        whole = np.zeros(places.max() + 1, stitched.dtype)
        whole[places] = stitched
        return whole
    if node.op in ("Reshape", "ExpandDims", "Transpose", "Tile"):
        by = {"Reshape": np.reshape, "Transpose": np.transpose, "Tile": np.tile}.get(node.op)
        return np.expand_dims(values[0], int(values[1].reshape(-1)[0])) if by is None else by(values[0], values[1])
    if node.op in ("Fill", "BroadcastTo"):
        shape, value = values if node.op == "Fill" else values[::-1]
        return np.broadcast_to(value, tuple(int(n) for n in shape)).copy()
    return None


def _sliced(node: Any, value: np.ndarray, begin: np.ndarray, end: np.ndarray, step: np.ndarray) -> np.ndarray | None:
    if attr(node, "ellipsis_mask").i or attr(node, "new_axis_mask").i:
        return None
    index: list[Any] = []
    for axis, (first, last, by) in enumerate(zip(begin.tolist(), end.tolist(), step.tolist(), strict=True)):
        if attr(node, "shrink_axis_mask").i >> axis & 1:
            index.append(first)
        else:
            from_first, to_last = (attr(node, f"{which}_mask").i >> axis & 1 for which in ("begin", "end"))
            index.append(slice(None if from_first else first, None if to_last else last, by))
    return np.asarray(value[tuple(index)])
