"""TensorFlow's message classes, without the five seconds of `import tensorflow`.

A wrong cut or a missing variable can be seen from protobuf alone. The generated modules need nothing but
`google.protobuf`; only their parent package is heavy. So the parent is represented by an empty module while
they are imported, and taken away again: a later `import tensorflow` is the ordinary one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

_MODULES = {
    "feature": "example",
    "example": "example",
    "attr_value": "framework",
    "graph": "framework",
    "node_def": "framework",
    "function": "framework",
    "op_def": "framework",
    "tensor": "framework",
    "tensor_shape": "framework",
    "types": "framework",
    "variable": "framework",
    "versions": "framework",
    "control_flow": "protobuf",
    "meta_graph": "protobuf",
    "saved_model": "protobuf",
    "saver": "protobuf",
    "tensor_bundle": "protobuf",
    "saved_tensor_slice": "util",
}


def _load() -> dict[str, Any]:
    stand_in = "tensorflow" not in sys.modules
    if stand_in:
        spec = importlib.util.find_spec("tensorflow")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
        empty = types.ModuleType("tensorflow")
        empty.__path__ = list(spec.submodule_search_locations)
        sys.modules["tensorflow"] = empty
    try:
        return {
            name: importlib.import_module(f"tensorflow.core.{folder}.{name}_pb2") for name, folder in _MODULES.items()
        }
    finally:
        if stand_in:
            # The message modules must stay: protobuf refuses to register the same file twice.
            packages = [m for m in sys.modules if m == "tensorflow" or m.startswith("tensorflow.")]
            for module in packages:
                if not module.endswith("_pb2"):
                    del sys.modules[module]


_loaded = _load()

AttrValue = _loaded["attr_value"].AttrValue
GraphDef = _loaded["graph"].GraphDef
FunctionDef = _loaded["function"].FunctionDef
NameAttrList = _loaded["attr_value"].NameAttrList
NodeDef = _loaded["node_def"].NodeDef
TensorProto = _loaded["tensor"].TensorProto
TensorShapeProto = _loaded["tensor_shape"].TensorShapeProto
VariableDef = _loaded["variable"].VariableDef
CondContextDef = _loaded["control_flow"].CondContextDef
WhileContextDef = _loaded["control_flow"].WhileContextDef
ControlFlowContextDef = _loaded["control_flow"].ControlFlowContextDef
MetaGraphDef = _loaded["meta_graph"].MetaGraphDef
SavedModel = _loaded["saved_model"].SavedModel
SaverDef = _loaded["saver"].SaverDef
BundleHeaderProto = _loaded["tensor_bundle"].BundleHeaderProto
BundleEntryProto = _loaded["tensor_bundle"].BundleEntryProto
SavedTensorSlices = _loaded["saved_tensor_slice"].SavedTensorSlices
Example = _loaded["example"].Example
DataType = _loaded["types"].DataType
