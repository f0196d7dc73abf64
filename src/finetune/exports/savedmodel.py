"""The finished model as a SavedModel with signatures, for TensorFlow Serving and for `tf.saved_model.load`.

It is the flat kind that TensorFlow 1 writes: a loop of TensorFlow 1 stays one, and every TensorFlow can load it.
Format: tensorflow/core/protobuf/saved_model.proto.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.engine.compile import control_flow_v1
from finetune.examples import preprocess
from finetune.exports.serving import BYTES, IMAGES, Ends, Serving, build, feedable
from finetune.results.card import Images

DEFAULT = "serving_default"
ENCODED = "serving_bytes"
BESIDE = "assets.extra"  # where a SavedModel keeps files that its graph does not read


def write(serving: Serving, folder: Path) -> dict[str, Any]:
    """Writes a SavedModel; gives what its card says of it."""
    tf1 = tf.compat.v1
    with control_flow_v1(), tf.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        variables = {name: _variable(name, value) for name, value in serving.values.items()}
        values = {name: tf.convert_to_tensor(variable) for name, variable in variables.items()}
        ends = build(serving, values, feedable(serving))
        signatures = {DEFAULT: _signature(ends)}
        if (images := serving.card.images) is not None:
            # A second copy of the graph and not of the weights: loaders differ in what they can feed inside of one.
            encoded = tf1.placeholder(tf.string, [None], BYTES)
            uncut = replace(serving, card=replace(serving.card, images=replace(images, crop=None)))
            decoded = build(uncut, values, {IMAGES: _decoded(encoded, images)})
            signatures[ENCODED] = _signature(replace(decoded, inputs={BYTES: encoded}))
        for name, value in serving.values.items():
            variables[name].load(value, session)
        builder = tf1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session, ["serve"], signatures, main_op=ends.run_first, clear_devices=True, strip_default_attrs=True
        )
        builder.save()
        return {"signatures": sorted(signatures), **ends.described()}


def _variable(name: str, value: Any) -> Any:
    return tf.compat.v1.Variable(tf.zeros(value.shape, value.dtype), name=name, use_resource=True)


def _decoded(encoded: Any, images: Images) -> Any:
    def one(content: Any) -> Any:
        image = tf.cast(preprocess.decode(content, images.channels), tf.float32)
        image = image if images.crop is None else preprocess.centred(image, images.size, images.crop)
        return tf.image.resize(image, images.size)  # here, for images of a batch may have different sizes

    return tf.map_fn(one, encoded, fn_output_signature=tf.TensorSpec([*images.size, images.channels], tf.float32))


def _signature(ends: Ends) -> Any:
    info = tf.compat.v1.saved_model.build_tensor_info
    return tf.compat.v1.saved_model.build_signature_def(
        {name: info(tensor) for name, tensor in ends.inputs.items()},
        {name: info(tensor) for name, tensor in ends.outputs.items()},
        tf.compat.v1.saved_model.signature_constants.PREDICT_METHOD_NAME,
    )
