"""The finished model as one `GraphDef` whose variables are constants.

Format: tensorflow/core/framework/graph.proto.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.exports.serving import Serving, frozen_graph

FILE = "model.pb"


def write(serving: Serving, folder: Path) -> dict[str, Any]:
    """Writes the graph; gives what its card says of it."""
    graph, ends = frozen_graph(serving)
    (folder / FILE).write_bytes(graph.SerializeToString())
    return {"file": FILE, **ends.described()}
