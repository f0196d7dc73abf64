"""TensorFlow's messages without TensorFlow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finetune import protos

# What a wrong recipe is refused with has to come in a second.
PLAN = "import sys; import finetune.plan; print([m for m in sys.modules if m == 'tensorflow' or m == 'keras'])"


def test_reading_cutting_and_planning_import_no_tensorflow():
    result = subprocess.run([sys.executable, "-c", PLAN], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_no_stand_in_for_tensorflow_is_left_behind():
    left = [m for m in sys.modules if m.startswith("tensorflow.core.") and not m.endswith("_pb2")]
    assert "tensorflow" in sys.modules or left == []


def test_the_messages_are_those_of_a_tensorflow_that_is_imported_later():
    tf = pytest.importorskip("tensorflow")
    assert tf.compat.v1.GraphDef is protos.GraphDef
    assert tf.compat.v1.MetaGraphDef is protos.MetaGraphDef


def test_without_tensorflow_the_missing_package_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(protos.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'tensorflow'"):
        protos._load()
