"""The name under which rows are kept: one digest over all that they depend on, so that they are never stale."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.recipe import Data
from finetune.surgery.backbone import Backbone
from finetune.surgery.source import Kind

# What says which examples there are and what is learnt of them, and not how one is prepared.
_NOT_PREPARING = ("path", "eval_path", "holdout", "group", "labels", "classes", "balance", "augment")
_TOGETHER = 4096  # digests of examples that are looked at at once


def key_of(
    part: Backbone,
    values: Mapping[str, Any],
    inputs: Mapping[str, Kind],
    data: Data,
    hashes: Sequence[str],
    more: Mapping[str, Any],
) -> str:
    """SHA-256 of a part and of what goes in, 40 hexadecimal digits of it.

    Args:
      part: the graph that is kept, its cuts the tensors that are.
      values: of its variables.
      inputs: field -> dtype and shape.
      data: how an example is read and prepared.
      hashes: of the examples' contents, in their order.
      more: whatever else changes a bit: the variation of the examples, the number computed at once, TensorFlow.
    """
    sha = hashlib.sha256()
    for name in sorted(part.graph.nodes):
        sha.update(part.graph.nodes[name].SerializeToString(deterministic=True))
    for function in part.graph.functions:
        sha.update(function.SerializeToString(deterministic=True))
    for table in part.tables:
        sha.update(repr((table.name, np.asarray(table.keys).tolist(), np.asarray(table.values).tolist())).encode())
    for name in sorted(part.graph.nodes.keys() & values.keys()):
        array = np.ascontiguousarray(values[name])
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(repr(array.tolist()).encode() if array.dtype == object else array.reshape(-1).view(np.uint8).data)
    preparing = {k: v for k, v in dataclasses.asdict(data).items() if k not in _NOT_PREPARING}
    said = {"cuts": list(part.shapes), "fields": dict(part.inputs), "inputs": {k: repr(v) for k, v in inputs.items()}}
    sha.update(json.dumps({**said, "data": preparing, **more}, sort_keys=True, default=str).encode())
    for start in range(0, len(hashes), _TOGETHER):
        sha.update(("\n" * (start > 0) + "\n".join(hashes[start : start + _TOGETHER])).encode())
    return sha.hexdigest()[:40]
