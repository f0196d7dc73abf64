"""The finished model for ONNX Runtime and all else that reads ONNX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.exports.serving import Serving, frozen_graph
from finetune.start import without_chatter

FILE = "model.onnx"


def write(serving: Serving, folder: Path) -> dict[str, Any]:
    """Writes the model; gives what its card says of it.

    Raises:
      UserError: it has ops that ONNX has not.
    """
    import onnx  # pyright: ignore[reportMissingImports] - both are an extra
    import tf2onnx  # pyright: ignore[reportMissingImports]

    graph, ends = frozen_graph(serving)
    ends = ends.of_numbers()
    both = [*ends.inputs.items(), *ends.outputs.items()]
    with without_chatter():
        try:
            model, _ = tf2onnx.convert.from_graph_def(
                graph,
                input_names=[tensor.name for tensor in ends.inputs.values()],
                output_names=[tensor.name for tensor in ends.outputs.values()],
                tensors_to_rename={tensor.name: name for name, tensor in both},
            )
            onnx.checker.check_model(model)  # the converter leaves what it does not know as it is
        except Exception as error:  # both raise what they like
            unknown = re.search(r"No Op registered for (\w+)", str(error))
            reason = unknown[1] if unknown else next(iter(str(error).splitlines()), type(error).__name__)
            what = f"tf2onnx {tf2onnx.__version__} cannot take this model: {reason}"
            raise UserError("source", "--to onnx", what, "--to savedmodel and frozen take every op") from error
    (folder / FILE).write_bytes(model.SerializeToString())
    described = ends.described()
    for name, about in (*described["inputs"].items(), *described["outputs"].items()):
        about["tensor"] = name
    return {"file": FILE, "opset": model.opset_import[0].version, **described}
