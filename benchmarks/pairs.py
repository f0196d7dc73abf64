"""Pairs that are made for a measurement, with weights from a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def write_pair(
    folder: Path, build: Callable[[Callable[..., Any]], None], change: Callable[[Any], None] = lambda meta: None
) -> None:
    """Writes FOLDER/model.meta and its checkpoint, the folder being there when they are whole.

    Args:
      build: makes the graph with `variable(name, shape, gain=1.0, trainable=True)`, which draws so that what a product
        gives varies as much as what it is given, times the gain. One of a single axis is filled with the gain.
      change: a last word about the MetaGraphDef.
    """
    import tensorflow as tf

    tf1 = tf.compat.v1
    tf1.disable_control_flow_v2()  # TF 1 had no other
    draw = np.random.default_rng(0)
    with tf.Graph().as_default(), tf1.Session() as session:
        values: dict[Any, np.ndarray] = {}

        def variable(name: str, shape: Any, gain: float = 1.0, trainable: bool = True) -> Any:
            sizes = [int(n) for n in shape]
            zeros = tf1.zeros_initializer()
            made = tf1.get_variable(name, sizes, trainable=trainable, use_resource=False, initializer=zeros)
            scale = np.float32(gain / np.prod(sizes[:-1]) ** 0.5)
            drawn = np.full(sizes, gain, np.float32) if len(sizes) == 1 else draw.standard_normal(sizes, np.float32)
            values[made] = drawn if len(sizes) == 1 else drawn * scale
            return made

        build(variable)
        for made, value in values.items():
            made.load(value, session)
        saver = tf1.train.Saver()
        part = folder.with_suffix(".part")
        part.mkdir(parents=True)
        saver.save(session, str(part / "model"), write_meta_graph=False)
        meta = tf1.train.export_meta_graph(saver_def=saver.as_saver_def())
        change(meta)
        (part / "model.meta").write_bytes(meta.SerializeToString())
        part.rename(folder)
