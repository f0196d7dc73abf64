"""Pairs and examples of any size, to see how cost grows with it. Weights and pixels are drawn from a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import write_pair

WIDTH = 8  # of a row of numbers
CLASSES = 2


def layers(folder: Path, count: int, width: int) -> None:
    """As many dense layers, the last of which is `out`."""
    import tensorflow as tf

    def build(variable: Callable[..., Any]) -> None:
        h = tf.compat.v1.placeholder(tf.float32, [None, WIDTH], "x")
        for number in range(count):
            h = tf.nn.tanh(h @ variable(f"layer{number}/weights", [h.shape[-1], width]))
        tf.identity(h, "out")

    write_pair(folder, build)


def convolutions(folder: Path, count: int = 6, width: int = 16) -> None:
    """As many 3 × 3 convolutions of maps of any size, and the mean over the last one."""
    import tensorflow as tf

    def build(variable: Callable[..., Any]) -> None:
        h = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "x")
        for number in range(count):
            h = tf.nn.relu(tf.nn.conv2d(h, variable(f"conv{number}/weights", [3, 3, h.shape[-1], width]), 1, "SAME"))
        tf.reduce_mean(h, [1, 2], name="out")

    write_pair(folder, build)


def chain(folder: Path, nodes: int) -> None:
    """One layer, and so many nodes one after the other: put into the file, for TensorFlow takes long to make them."""
    import tensorflow as tf

    def build(variable: Callable[..., Any]) -> None:
        x = tf.compat.v1.placeholder(tf.float32, [None, WIDTH], "x")
        tf.identity(x @ variable("weights", [WIDTH, WIDTH]), "first")

    def lengthen(meta: Any) -> None:
        last = "first"
        for number in range(nodes - len(meta.graph_def.node) - 1):
            node = meta.graph_def.node.add(name=f"part{number // 100}/node{number % 100}", op="Tanh", input=[last])
            node.attr["T"].type = 1
            last = node.name
        meta.graph_def.node.add(name="out", op="Identity", input=[last]).attr["T"].type = 1

    write_pair(folder, build, lengthen)


def rows(folder: Path, count: int) -> None:
    """So many rows of numbers, of two classes that can be told apart."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, CLASSES, count)
    given = draw.standard_normal((count, WIDTH), np.float32) + labels[:, None].astype(np.float32)
    _saved(folder, given, labels)


def pictures(folder: Path, count: int, side: int) -> None:
    """So many images of random pixels."""
    draw = np.random.default_rng(0)
    _saved(folder, draw.integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count) % CLASSES)


def _saved(folder: Path, given: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "x.npy", given)
    np.save(folder / "labels.npy", labels)
