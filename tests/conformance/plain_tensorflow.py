"""A process with TensorFlow and nothing of ours: loads pairs as programs of the time do, and answers about them.

A line of the input is a question as JSON: the `folder` of a pair, `asks`, each of `feeds` (tensor -> value, or the name
of an array in the file `batch`) and `fetches`, and the file that the answers go to, `out`. They are named by the number
of the ask and the tensor. A line of the output is what was found beside them.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1


def answer(folder: str, asks: list[dict[str, Any]], batch: str, out: str) -> dict[str, Any]:
    with np.load(batch) as stored:
        fed = dict(stored)
    with tf.Graph().as_default() as graph, tf1.Session() as session:
        prefix = tf1.train.latest_checkpoint(folder)
        saver = tf1.train.import_meta_graph(f"{prefix}.meta")
        session.run(tf1.global_variables_initializer())
        saver.restore(session, prefix)
        found = {}
        for number, ask in enumerate(asks):
            feeds = {t: fed[v] if isinstance(v, str) else v for t, v in ask["feeds"].items()}
            tensors = {f"{number}/{name}": graph.get_tensor_by_name(name) for name in ask["fetches"]}
            found |= session.run(tensors, feeds)
        np.savez(out, **found)
        return {
            "prefix": prefix,
            "keys": [key for key, _ in tf1.train.list_variables(prefix)],
            "devices": sorted({op.device for op in graph.get_operations()} - {""}),
            "trainable": [v.op.name for v in tf1.trainable_variables()],
            "variables": [v.op.name for v in tf1.global_variables()],
            "without_gradient": without_gradient(graph.get_tensor_by_name(asks[0]["fetches"][-1])),
            "ours": sorted(m for m in sys.modules if m.partition(".")[0] == "finetune"),
        }


def without_gradient(tensor: Any) -> list[str]:
    variables = tf1.trainable_variables()
    gradients = tf1.gradients(tensor, variables)
    return [v.op.name for v, g in zip(variables, gradients, strict=True) if g is None]


def main() -> None:
    tf1.disable_control_flow_v2()
    for line in sys.stdin:
        try:
            about = answer(**json.loads(line))
        except Exception:
            about = {"error": traceback.format_exc()}
        print(json.dumps(about), flush=True)


if __name__ == "__main__":
    main()
