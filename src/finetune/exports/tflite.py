"""The finished model for TensorFlow Lite, which runs on telephones and small boards.

One example at a time and of a fixed size, for its kernels allocate their memory once; 32-bit floats.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.errors import UserError, shortlist
from finetune.exports.serving import Ends, Serving, frozen_graph
from finetune.start import without_chatter

FILE = "model.tflite"
_LACKING = re.compile(r"^\s*(?:TF Select|Custom) ops: (.+)$", re.MULTILINE)


def write(serving: Serving, folder: Path) -> dict[str, Any]:
    """Writes the model; gives what its card says of it.

    Raises:
      UserError: it has ops that neither TensorFlow Lite nor its extension has.
    """
    graph, ends = frozen_graph(serving, batch_size=1)
    ends = ends.of_numbers()
    lite = tf.lite.OpsSet
    content, said = _converted(graph, ends, [lite.TFLITE_BUILTINS])
    lacking = _names(said)
    if content is None:
        content, said = _converted(graph, ends, [lite.TFLITE_BUILTINS, lite.SELECT_TF_OPS])
    if content is None:
        what = f"TensorFlow Lite cannot take this model: {shortlist(_names(said) or lacking) or _reason(said)}"
        raise UserError("source", "--to tflite", what, "--to savedmodel, frozen and onnx take more ops")
    (folder / FILE).write_bytes(content)
    return {"file": FILE, **({"select_tf_ops": lacking} if lacking else {}), **ends.described()}


def _converted(graph: Any, ends: Ends, ops: Sequence[Any]) -> tuple[bytes | None, str]:
    """The model, None if the converter refuses it, and what the converter said."""
    with tempfile.TemporaryDirectory() as aside, without_chatter() as chatter:
        file = Path(aside) / "frozen.pb"
        file.write_bytes(graph.SerializeToString())
        inputs = {t.op.name: t.shape.as_list() for t in ends.inputs.values()}
        outputs = [t.op.name for t in ends.outputs.values()]
        converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(str(file), list(inputs), outputs, inputs)
        converter.target_spec.supported_ops = ops
        try:
            return converter.convert(), ""
        except Exception as error:  # the converter raises what it likes
            said = str(error)
    return None, said + "".join(chatter)


def _names(said: str) -> list[str]:
    found = [name.strip() for line in _LACKING.findall(said) for name in line.split(",")]
    return list(dict.fromkeys(found))


def _reason(said: str) -> str:
    return next((line.strip() for line in said.splitlines() if line.strip()), "the converter gives no reason")
