"""The graphs of the goldens: small TensorFlow-1 models, each the smallest with the trait that it is named after.

Every `build` function writes a model into the default graph, from its placeholders up to the cut. Names are chosen
as programs of the time chose them; sizes are a few units, so that a pair stays below 150 kB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1

BATCH = 6
DECAY = 0.9  # of moving statistics; low, so that a few steps move them visibly

Batch = Callable[[np.random.Generator, int], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Golden:
    """One golden: how its source is built, fed and saved, and what must be true of it.

    `batch` makes the arrays of one batch, by field, from a generator and the number of the batch; the answers
    belong to batch 0.
    """

    description: str
    cut: str
    build: Callable[[], None]
    batch: Batch
    inputs: Mapping[str, str]  # field -> tensor
    holds: tuple[str, ...]  # ops and devices that are found below the cut or in UPDATE_OPS
    eval_feeds: Mapping[str, Any] = field(default_factory=dict)
    train_feeds: Mapping[str, Any] = field(default_factory=dict)  # {}: those of evaluation
    resource: bool = False  # resource variables instead of reference variables
    optimizer: bool = True  # Adam on an old head is part of the source
    prefix: str = "model"
    v1: bool = False  # the checkpoint has the format of before TensorFlow 1.0
    keys: Mapping[str, str] = field(default_factory=dict)  # variable -> key, for a Saver that was given a dict
    idle: tuple[str, ...] = ()  # variables of the branch that batch 0 does not take: their gradient is zero


# ---- layers


def width_of(x: Any) -> int:
    return int(x.shape[-1])


def variable(name: str, shape: list[int], stddev: float, mean: float = 0.0, **options: Any) -> Any:
    initializer = tf1.random_normal_initializer(mean, stddev)
    return tf1.get_variable(name, shape, initializer=initializer, **options)


def dense(x: tf.Tensor, name: str, width: int) -> tf.Tensor:
    inputs = width_of(x)
    kernel = variable(f"{name}/kernel", [inputs, width], inputs**-0.5)
    bias = variable(f"{name}/bias", [width], 0.1)
    return tf1.nn.bias_add(tf1.matmul(x, kernel, name=f"{name}/MatMul"), bias, name=f"{name}/BiasAdd")


def conv(x: tf.Tensor, name: str, size: int, width: int, padding: str = "SAME") -> tf.Tensor:
    inputs = width_of(x)
    # An old program keeps its variables on the CPU, and pins the work to a GPU.
    with tf1.device("/cpu:0"):
        weights = variable(f"{name}/weights", [size, size, inputs, width], (size * size * inputs) ** -0.5)
        biases = variable(f"{name}/biases", [width], 0.1, mean=0.5)
    convolved = tf1.nn.conv2d(x, weights, strides=[1, 1, 1, 1], padding=padding, name=f"{name}/Conv2D")
    return tf1.nn.bias_add(convolved, biases, name=f"{name}/BiasAdd")


def scale_and_shift(name: str, width: int) -> tuple[Any, Any]:
    return variable(f"{name}/gamma", [width], 0.2, mean=1.0), variable(f"{name}/beta", [width], 0.2)


def moving(name: str, width: int, **options: Any) -> tuple[Any, Any]:
    zeros, ones = tf1.zeros_initializer(), tf1.ones_initializer()
    return (
        tf1.get_variable(f"{name}/moving_mean", [width], initializer=zeros, trainable=False, **options),
        tf1.get_variable(f"{name}/moving_variance", [width], initializer=ones, trainable=False, **options),
    )


# ---- feed-forward


def conv_ref() -> None:
    images = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="images")
    keep_prob = tf1.placeholder(tf.float32, [], name="keep_prob")
    with tf1.device("/gpu:0"):
        x = tf1.nn.relu(conv(images, "conv1", 3, 4), name="conv1/Relu")
        x = tf1.nn.max_pool(x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME", name="pool1")
    x = tf1.nn.relu(conv(x, "fc6", 4, 8, "VALID"), name="fc6/Relu")
    x = tf1.nn.dropout(x, keep_prob=keep_prob, name="dropout6")
    # No scope is opened for fc7: the scope would take the name, and the output would become `fc7_1`.
    tf1.nn.relu(conv(x, "fc7", 1, 6), name="fc7")


def dense_resource() -> None:
    x = tf1.placeholder(tf.float32, [None, 9], name="x")
    x = tf1.nn.elu(dense(x, "hidden", 12), name="hidden/Elu")
    tf1.tanh(dense(x, "features", 5), name="features/Tanh")


def shared() -> None:
    def tower(x: tf.Tensor) -> tf.Tensor:
        with tf1.variable_scope("tower", reuse=tf1.AUTO_REUSE):
            x = tf1.nn.relu(dense(x, "fc1", 10))
            return tf1.tanh(dense(x, "fc2", 6))

    left = tf1.placeholder(tf.float32, [None, 8], name="left")
    right = tf1.placeholder(tf.float32, [None, 8], name="right")
    tf1.abs(tower(left) - tower(right), name="distance")


def embedding() -> None:
    tokens = tf1.placeholder(tf.int32, [None, 6], name="tokens")
    # 21 rows in two pieces: 11 and 10.
    table = variable("embedding", [21, 4], 1.0, partitioner=tf1.fixed_size_partitioner(2))
    words = tf1.nn.embedding_lookup(table, tokens, partition_strategy="div", name="words")
    tf1.nn.relu(dense(tf1.reduce_mean(words, axis=1), "sentence", 5), name="sentence/Relu")


def two_layers() -> None:
    x = tf1.placeholder(tf.float32, [None, 7], name="x")
    x = tf1.nn.relu(dense(x, "hidden", 8), name="hidden/Relu")
    tf1.nn.softplus(dense(x, "features", 5), name="features/Softplus")


# ---- batch normalisation


def bn_cond() -> None:
    images = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="images")
    is_training = tf1.placeholder_with_default(True, [], name="is_training")
    x = images
    for name, width in (("block1", 4), ("block2", 6)):
        weights = variable(f"{name}/weights", [3, 3, width_of(x), width], 0.3)
        x = tf1.nn.conv2d(x, weights, strides=[1, 2, 2, 1], padding="SAME", name=f"{name}/Conv2D")
        x = tf1.nn.relu6(_fused_bn(x, f"{name}/bn", is_training), name=f"{name}/Relu6")


def _fused_bn(x: tf.Tensor, name: str, is_training: tf.Tensor) -> tf.Tensor:
    width = width_of(x)
    gamma, beta = scale_and_shift(name, width)
    mean, variance = moving(name, width)

    def train() -> Any:
        return tf1.nn.fused_batch_norm(x, gamma, beta, epsilon=1e-3, is_training=True)

    def infer() -> Any:
        return tf1.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=1e-3, is_training=False)

    y, batch_mean, batch_variance = tf1.cond(is_training, train, infer, name=f"{name}/cond")
    decay = tf1.cond(is_training, lambda: tf1.constant(DECAY), lambda: tf1.constant(1.0), name=f"{name}/decay")
    for statistic, value in ((mean, batch_mean), (variance, batch_variance)):
        update = tf1.assign(statistic, statistic * decay + value * (1.0 - decay))
        tf1.add_to_collection(tf1.GraphKeys.UPDATE_OPS, update.op)
    return y


def bn_moments() -> None:
    x = tf1.placeholder(tf.float32, [None, 10], name="x")
    phase_train = tf1.placeholder(tf.bool, [], name="phase_train")
    for name, width, resource in (("fc1", 8, False), ("fc2", 5, True)):
        x = tf1.matmul(x, variable(f"{name}/kernel", [width_of(x), width], 0.4), name=f"{name}/MatMul")
        x = tf1.tanh(_moments_bn(x, f"{name}/bn", phase_train, resource), name=f"{name}/Tanh")


def _moments_bn(x: tf.Tensor, name: str, phase_train: tf.Tensor, resource: bool) -> tf.Tensor:
    width = width_of(x)
    gamma, beta = scale_and_shift(name, width)
    statistics = moving(name, width, use_resource=resource)
    batch = tf1.nn.moments(x, [0])
    for statistic, value in zip(statistics, batch, strict=True):
        update = tf1.assign_sub(statistic, (statistic - value) * (1.0 - DECAY))
        tf1.add_to_collection(tf1.GraphKeys.UPDATE_OPS, update.op)
    mean, variance = tf1.cond(
        phase_train,
        lambda: tuple(tf1.identity(value) for value in batch),
        lambda: tuple(tf1.identity(statistic) for statistic in statistics),
        name=f"{name}/cond",
    )
    return tf1.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3, name=f"{name}/batchnorm")


def bn_side_effect() -> None:
    x = tf1.placeholder(tf.float32, [None, 10], name="x")
    is_training = tf1.placeholder(tf.bool, [], name="is_training")
    for name, width in (("fc1", 8), ("fc2", 5)):
        x = tf1.matmul(x, variable(f"{name}/kernel", [width_of(x), width], 0.4), name=f"{name}/MatMul")
        x = tf1.tanh(_assigning_bn(x, f"{name}/bn", is_training), name=f"{name}/Tanh")
    # No biases before batch norm: in training their gradient is zero but for rounding.


def _assigning_bn(x: tf.Tensor, name: str, is_training: tf.Tensor) -> tf.Tensor:
    width = width_of(x)
    gamma, beta = scale_and_shift(name, width)
    moving_mean, moving_variance = moving(name, width)

    def train() -> tuple[tf.Tensor, tf.Tensor]:
        mean, variance = tf1.nn.moments(x, [0])
        assign_mean = tf1.assign(moving_mean, moving_mean * DECAY + mean * (1.0 - DECAY))
        assign_variance = tf1.assign(moving_variance, moving_variance * DECAY + variance * (1.0 - DECAY))
        with tf1.control_dependencies([assign_mean, assign_variance]):
            return tf1.identity(mean), tf1.identity(variance)

    def infer() -> tuple[tf.Tensor, tf.Tensor]:
        return tf1.identity(moving_mean), tf1.identity(moving_variance)

    mean, variance = tf1.cond(is_training, train, infer, name=f"{name}/cond")
    return tf1.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3, name=f"{name}/batchnorm")


# ---- loops and branches

UNITS = 4

Cell = Callable[[tf.Tensor, tf.Tensor, tuple[tf.Tensor, ...]], tuple[tf.Tensor, ...]]


def unroll(x: tf.Tensor, cell: Cell, states: int) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Outputs [N, T, UNITS] and last states of a cell: the loop over `TensorArray`s that `dynamic_rnn` makes."""
    batch, steps = tf1.unstack(tf1.shape(x)[:2])
    read = tf1.TensorArray(tf.float32, size=steps, name="rnn/input").unstack(tf1.transpose(x, [1, 0, 2]))
    written = tf1.TensorArray(tf.float32, size=steps, name="rnn/output")
    zeros = tuple(tf1.zeros(tf1.stack([batch, UNITS])) for _ in range(states))

    def body(time: tf.Tensor, state: tuple[tf.Tensor, ...], written: Any) -> Any:
        state = cell(time, read.read(time), state)
        return time + 1, state, written.write(time, state[0])

    def more(time: tf.Tensor, *_: Any) -> tf.Tensor:
        return time < steps

    _, state, written = tf1.while_loop(more, body, (tf1.constant(0), zeros, written), name="rnn/while")
    return tf1.transpose(written.stack(), [1, 0, 2]), state


def _gru(inputs: int, keep_prob: tf.Tensor | None = None) -> Cell:
    gates = variable("rnn/gru_cell/gates/kernel", [inputs + UNITS, 2 * UNITS], 0.5)
    gates_bias = variable("rnn/gru_cell/gates/bias", [2 * UNITS], 0.1, mean=1.0)
    candidate = variable("rnn/gru_cell/candidate/kernel", [inputs + UNITS, UNITS], 0.5)
    candidate_bias = variable("rnn/gru_cell/candidate/bias", [UNITS], 0.1)

    def cell(time: tf.Tensor, x: tf.Tensor, state: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        (h,) = state
        opened = tf1.sigmoid(tf1.nn.bias_add(tf1.matmul(tf1.concat([x, h], 1), gates), gates_bias))
        reset, update = tf1.split(opened, 2, axis=1)
        new = tf1.tanh(tf1.nn.bias_add(tf1.matmul(tf1.concat([x, reset * h], 1), candidate), candidate_bias))
        if keep_prob is not None:
            new = tf1.nn.dropout(new, keep_prob=keep_prob)
        return (update * h + (1.0 - update) * new,)

    return cell


def rnn_while() -> None:
    x = tf1.placeholder(tf.float32, [None, 7, 5], name="x")
    _, (last,) = unroll(x, _gru(5), states=1)
    tf1.identity(last, name="last_state")


def dropout_while() -> None:
    x = tf1.placeholder(tf.float32, [None, 7, 5], name="x")
    keep_prob = tf1.placeholder(tf.float32, [], name="keep_prob")
    _, (last,) = unroll(x, _gru(5, keep_prob), states=1)
    tf1.identity(last, name="last_state")


def rnn_sequence() -> None:
    x = tf1.placeholder(tf.float32, [None, None, 5], name="x")
    lengths = tf1.placeholder(tf.int32, [None], name="lengths")
    kernel = variable("rnn/lstm_cell/kernel", [5 + UNITS, 4 * UNITS], 0.5)
    bias = variable("rnn/lstm_cell/bias", [4 * UNITS], 0.1)

    def cell(time: tf.Tensor, x: tf.Tensor, state: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        _, h, c = state
        parts = tf1.nn.bias_add(tf1.matmul(tf1.concat([x, h], 1), kernel), bias)
        i, j, f, o = tf1.split(parts, 4, axis=1)
        new_c = tf1.sigmoid(f + 1.0) * c + tf1.sigmoid(i) * tf1.tanh(j)
        new_h = tf1.sigmoid(o) * tf1.tanh(new_c)
        alive = time < lengths
        # V1's `where`: a vector chooses rows.
        return (
            tf1.where(alive, new_h, tf1.zeros_like(new_h)),
            tf1.where(alive, new_h, h),
            tf1.where(alive, new_c, c),
        )

    outputs, _ = unroll(x, cell, states=3)
    tf1.identity(outputs, name="outputs")


def while_scalar() -> None:
    x = tf1.placeholder(tf.float32, [None, 6], name="x")
    scale = variable("loop/scale", [], 0.1, mean=0.8)
    mix = variable("loop/mix", [6, 6], 0.4)
    shift = variable("loop/shift", [6], 0.3)

    def body(i: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        v = v * scale
        v = tf1.cond(tf1.equal(tf1.mod(i, 2), 0), lambda: tf1.tanh(tf1.matmul(v, mix)), lambda: v + shift)
        return i + 1, v

    _, v = tf1.while_loop(lambda i, v: i < 5, body, (tf1.constant(0), x), name="loop/while")
    tf1.identity(v, name="mixed")


def cond_data() -> None:
    x = tf1.placeholder(tf.float32, [None, 6], name="x")
    base = tf1.tanh(dense(x, "base", 8), name="base/Tanh")
    kernels = {name: variable(f"{name}/kernel", [8, 5], 0.4) for name in ("positive", "negative")}
    biases = {name: variable(f"{name}/bias", [5], 0.1) for name in ("positive", "negative")}

    def branch(name: str) -> Callable[[], tf.Tensor]:
        return lambda: tf1.matmul(base, kernels[name]) + biases[name]

    chosen = tf1.cond(tf1.reduce_mean(x) > 0.0, branch("positive"), branch("negative"), name="choice")
    tf1.nn.elu(chosen, name="features")


# ---- batches


def floats(name: str, *shape: int) -> Batch:
    """Off-centre, so that the moving statistics leave 0 and 1."""
    return lambda rng, step: {name: rng.normal(0.3, 1.0, [BATCH, *shape]).astype(np.float32)}


def _two_sides(rng: np.random.Generator, step: int) -> dict[str, np.ndarray]:
    return {side: rng.normal(0.0, 1.0, [BATCH, 8]).astype(np.float32) for side in ("left", "right")}


def _tokens(rng: np.random.Generator, step: int) -> dict[str, np.ndarray]:
    return {"tokens": rng.integers(0, 21, [BATCH, 6], dtype=np.int32)}


def _sequences(rng: np.random.Generator, step: int) -> dict[str, np.ndarray]:
    """Batch 0 has 5 sequences of at most 6 steps, one of them full; the others have other sizes."""
    batch, steps = (5, 6) if step == 0 else (4 + step, 3 + step)
    lengths = rng.integers(1, steps + 1, [batch], dtype=np.int32)
    lengths[0], lengths[1] = steps, 2
    return {"x": rng.normal(0.0, 1.0, [batch, steps, 5]).astype(np.float32), "lengths": lengths}


def _either_sign(rng: np.random.Generator, step: int) -> dict[str, np.ndarray]:
    """Even batches have a mean above zero, odd ones below."""
    return {"x": rng.normal(-0.6 if step % 2 else 0.6, 1.0, [BATCH, 6]).astype(np.float32)}


GOLDENS = {
    "conv_ref": Golden(
        "Convolution, pooling and a convolution-shaped fc7; dropout by keep_prob; some nodes pinned to a GPU",
        cut="fc7:0",
        build=conv_ref,
        batch=floats("images", 8, 8, 3),
        inputs={"images": "images:0"},
        holds=("VariableV2", "Conv2D", "MaxPool", "RandomUniform", "/device:GPU:0"),
        eval_feeds={"keep_prob:0": 1.0},
    ),
    "dense_resource": Golden(
        "Two dense layers on resource variables",
        cut="features/Tanh:0",
        build=dense_resource,
        batch=floats("x", 9),
        inputs={"x": "x:0"},
        holds=("VarHandleOp", "ReadVariableOp"),
        resource=True,
    ),
    "bn_cond": Golden(
        "Fused batch norm under a V1 cond on is_training, which defaults to True; Assign nodes in UPDATE_OPS",
        cut="block2/Relu6:0",
        build=bn_cond,
        batch=floats("images", 8, 8, 3),
        inputs={"images": "images:0"},
        holds=("VariableV2", "FusedBatchNormV3", "Switch", "Merge", "PlaceholderWithDefault", "Assign"),
        eval_feeds={"is_training:0": False},
        train_feeds={"is_training:0": True},
    ),
    "bn_moments": Golden(
        "Batch norm from moments, statistics chosen by a V1 cond on phase_train and moved by AssignSub: those of fc1"
        " are reference variables, all others resource variables",
        cut="fc2/Tanh:0",
        build=bn_moments,
        batch=floats("x", 10),
        inputs={"x": "x:0"},
        holds=("VariableV2", "VarHandleOp", "Switch", "Merge", "AssignSub", "AssignSubVariableOp"),
        eval_feeds={"phase_train:0": False},
        train_feeds={"phase_train:0": True},
        resource=True,
    ),
    "rnn_while": Golden(
        "A GRU in a V1 while_loop over TensorArrays; the cut is the last state, the outputs are not used",
        cut="last_state:0",
        build=rnn_while,
        batch=floats("x", 7, 5),
        inputs={"x": "x:0"},
        holds=("VariableV2", "Enter", "Exit", "NextIteration", "TensorArrayReadV3"),
    ),
    "rnn_sequence": Golden(
        "A masked LSTM in a V1 while_loop, batch and time of any size; the cut is the outputs; resource variables",
        cut="outputs:0",
        build=rnn_sequence,
        batch=_sequences,
        inputs={"x": "x:0", "lengths": "lengths:0"},
        holds=("VarHandleOp", "Enter", "Exit", "TensorArrayWriteV3", "Select"),
        resource=True,
    ),
    "while_scalar": Golden(
        "A V1 while_loop of five turns that multiplies by a variable, with a cond in its body",
        cut="mixed:0",
        build=while_scalar,
        batch=floats("x", 6),
        inputs={"x": "x:0"},
        holds=("VariableV2", "Enter", "Exit", "Switch", "Merge"),
    ),
    "cond_data": Golden(
        "A V1 cond on the sign of the batch's mean, with other variables in each branch; the batch takes the true one",
        cut="features:0",
        build=cond_data,
        batch=_either_sign,
        inputs={"x": "x:0"},
        holds=("VariableV2", "Switch", "Merge", "Greater"),
        idle=("negative/kernel", "negative/bias"),
    ),
    "shared": Golden(
        "Two inputs through the same variables; the cut is the absolute difference; no optimizer in the graph",
        cut="distance:0",
        build=shared,
        batch=_two_sides,
        inputs={"left": "left:0", "right": "right:0"},
        holds=("VariableV2", "Abs"),
        optimizer=False,
    ),
    "embedding": Golden(
        "Token ids through an embedding that is partitioned in two; its checkpoint key holds slices",
        cut="sentence/Relu:0",
        build=embedding,
        batch=_tokens,
        inputs={"tokens": "tokens:0"},
        holds=("VariableV2", "GatherV2", "DynamicPartition"),
    ),
    "v1_checkpoint": Golden(
        "Two dense layers saved in the V1 format: one file, no .index",
        cut="features/Softplus:0",
        build=two_layers,
        batch=floats("x", 7),
        inputs={"x": "x:0"},
        holds=("VariableV2",),
        prefix="model.ckpt",
        v1=True,
    ),
    "dict_saver": Golden(
        "Two dense layers saved by a Saver that was given a dict: the keys are not the variables' names",
        cut="features/Softplus:0",
        build=two_layers,
        batch=floats("x", 7),
        inputs={"x": "x:0"},
        holds=("VariableV2",),
        keys={
            "hidden/kernel": "weights_a",
            "hidden/bias": "bias_a",
            "features/kernel": "weights_b",
            "features/bias": "bias_b",
        },
    ),
    "dropout_while": Golden(
        "A GRU in a V1 while_loop with dropout by keep_prob in the loop's body",
        cut="last_state:0",
        build=dropout_while,
        batch=floats("x", 7, 5),
        inputs={"x": "x:0"},
        holds=("VariableV2", "Enter", "Exit", "RandomUniform"),
        eval_feeds={"keep_prob:0": 1.0},
    ),
    "bn_side_effect": Golden(
        "Batch norm whose forward path assigns the statistics, in the true branch of a V1 cond on is_training",
        cut="fc2/Tanh:0",
        build=bn_side_effect,
        batch=floats("x", 10),
        inputs={"x": "x:0"},
        holds=("VariableV2", "Switch", "Merge", "RefSwitch", "Assign"),
        eval_feeds={"is_training:0": False},
        train_feeds={"is_training:0": True},
    ),
}
