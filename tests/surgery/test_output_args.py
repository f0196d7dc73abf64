"""The names of outputs, compared with the installed TensorFlow's own."""

from __future__ import annotations

from tensorflow.core.framework.op_def_pb2 import OpList
from tensorflow.python.client.pywrap_tf_session import TF_GetAllOpList, TF_GetBuffer

from finetune.surgery.allowed_ops import ALLOWED
from finetune.surgery.output_args import OUTPUT_ARGS


def test_the_outputs_of_allowed_ops_are_those_that_tensorflow_defines():
    defined = {}
    for op in OpList.FromString(TF_GetBuffer(TF_GetAllOpList())).op:
        if op.name in ALLOWED and len(op.output_arg) > 1:
            lists = [(a.name, a.number_attr or a.type_list_attr) for a in op.output_arg]
            defined[op.name] = tuple(f"{name}*{listed}" if listed else name for name, listed in lists)
    assert defined == OUTPUT_ARGS
