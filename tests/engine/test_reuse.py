"""The rows of classes that both heads know are taken over, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.engine.reuse import reused
from finetune.examples.tasks import Task
from finetune.recipe import Reuse
from tests.graphs import refusal

OLD = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)  # a convolution, as old networks had for their last layer
BIAS = np.float32([10, 20, 30, 40])
NAMES = ["cat", "dog", "bird", "fish"]
FRESH = {"head/kernel": np.full((3, 2), -1, np.float32), "head/bias": np.zeros(2, np.float32)}


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    stored = str(tmp_path / "model")
    tf.raw_ops.SaveV2(prefix=stored, tensor_names=["fc8/w", "fc8/b"], shape_and_slices=["", ""], tensors=[OLD, BIAS])
    return stored


def task(*classes: str) -> Task:
    return Task("head", "fc7:0", "labels", "softmax", classes, len(classes))


def test_rows_go_by_the_names_of_the_classes(prefix: str):
    words = Reuse("fc8/w", "fc8/b", NAMES)
    found, said = reused(FRESH, task("bird", "bat"), words, prefix)
    assert found["head/kernel"].tolist() == [[2, -1], [6, -1], [10, -1]]
    assert found["head/bias"].tolist() == [30, 0]
    assert said == "reuse: bird start from fc8/w and fc8/b"
    assert FRESH["head/kernel"].max() == -1


def test_names_may_stand_in_a_file(prefix: str, tmp_path: Path):
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\nfish\n")
    found, _ = reused(FRESH, task("fish", "cat"), Reuse("fc8/w", None, str(tmp_path / "labels.txt")), prefix)
    assert found["head/kernel"].tolist() == [[3, 0], [7, 4], [11, 8]]
    assert not found["head/bias"].any()


@pytest.mark.parametrize(
    ("words", "classes", "where", "what"),
    [
        ({"kernel": "fc8/v"}, ("cat", "dog"), "head.reuse", "the checkpoint has no tensor 'fc8/v'"),
        ({"kernel": "fc8/b"}, ("cat", "dog"), "head.reuse.kernel", "'fc8/b' reads 1 features, the new head 3"),
        ({"labels": NAMES[:3]}, ("cat", "dog"), "head.reuse.labels", "3 names for the 4 classes of 'fc8/w'"),
        ({}, ("cats", "dogs"), "head.reuse.labels", "none of the classes cats, dogs is an old one"),
        (
            {"labels": "none.txt"},
            ("cat", "dog"),
            "head.reuse.labels",
            "cannot read 'none.txt' (No such file or directory)",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    prefix: str, words: dict[str, Any], classes: tuple[str, ...], where: str, what: str
):
    error = refusal(reused, FRESH, task(*classes), Reuse(**{"kernel": "fc8/w", "labels": NAMES, **words}), prefix)
    assert (error.where, error.what) == (where, what)
