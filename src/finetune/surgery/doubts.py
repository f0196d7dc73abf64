"""What a source is warned of though it can be computed: batch norm left in training mode, a newer writer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from finetune.errors import shortlist
from finetune.graph import attr, consumers
from finetune.names import node_of
from finetune.surgery import freeze
from finetune.surgery.backbone import Backbone
from finetune.surgery.source import Source

_FUSED = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")


def warnings(source: Source, evaluation: Backbone, values: Mapping[str, np.ndarray]) -> list[str]:
    """Lines for the opening of a run; `values` are those that the variables start from."""
    found = []
    if layers := normalised_by_the_batch(source, evaluation):
        found.append(
            f"warning: batch norm in {shortlist(layers)} normalises by the batch in evaluation too, so the features of"
            " an example depend on the others of its batch; feed is_training false, or use the .meta made for inference"
        )
    if layers := unmoved_statistics(source, values):
        found.append(f"warning: batch norm in {shortlist(layers)} has statistics that were never moved: mean 0, var 1")
    written = source.meta.graph_def.versions.producer
    if written > tf.version.GRAPH_DEF_VERSION:
        found.append(
            f"warning: the source is of graph version {written}, TensorFlow {tf.version.VERSION} knows those up to"
            f" {tf.version.GRAPH_DEF_VERSION}: what it computes may differ"
        )
    return found


def normalised_by_the_batch(source: Source, evaluation: Backbone) -> list[str]:
    """The layers whose batch norm takes mean and variance of the batch when the source is evaluated."""
    nodes = evaluation.graph.nodes
    fused = [n for n in nodes.values() if n.op in _FUSED]
    training = {n.name for n in fused if "is_training" not in n.attr or attr(n, "is_training").b}
    inferring = {n.name for n in fused} - training
    layers = {name.rpartition("/")[0] or name for name in training}
    driven = _driven(evaluation) - inferring
    for update in source.updates:
        # What is assigned to the statistics comes from the batch; here it is also what the features are made of.
        if driven & freeze.attached(source.whole, source.below, update):
            layers.add(update.variable.rpartition("/")[0] or update.variable)
    return sorted(layers)


def _driven(evaluation: Backbone) -> set[str]:
    """The nodes that depend on data."""
    readers = consumers(evaluation.graph.nodes)
    found: set[str] = set()
    stack = [node_of(tensor) for tensor in evaluation.inputs.values()]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack.extend(readers.get(name, ()))
    return found


def unmoved_statistics(source: Source, values: Mapping[str, np.ndarray]) -> list[str]:
    """The layers with one moving statistic of zeros and one of ones, as they are before the first step."""
    by_layer: dict[str, list[np.ndarray]] = defaultdict(list)
    for name in {u.variable for u in source.updates}:
        by_layer[name.rpartition("/")[0]].append(values[name])
    return sorted(
        layer
        for layer, those in by_layer.items()
        if any(np.all(v == 0) for v in those) and any(np.all(v == 1) for v in those)
    )
