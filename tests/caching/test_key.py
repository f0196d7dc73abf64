"""The key of what is kept: whatever changes a row changes it, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune.caching.key import key_of
from finetune.examples.compact import Digests
from finetune.recipe import Augment, Data
from finetune.surgery.backbone import Backbone
from tests.graphs import FLOAT, fed, graph, node

PART = Backbone(
    graph(fed("x", None, 3), fed("w", 3, 2), node("y", "MatMul", "x", "w")), {"x": "x:0"}, {"y:0": (None, 2)}
)
WORDS = {
    "part": PART,
    "values": {"w": np.ones((3, 2), np.float32), "head/kernel": np.ones(3)},
    "inputs": {"x": (FLOAT, (None, 3))},
    "data": Data(kind="images", path="here", preprocess="unit"),
    "hashes": ["1f", "2e"],
    "more": {"block": 32},
}
KEY = key_of(**WORDS)

OTHERS = {
    "a weight": {"values": {"w": np.float32([[1, 1], [1, 1], [1, 1.0000001]])}},
    "its dtype": {"values": {"w": np.ones((3, 2), np.float64)}},
    "the graph": {"part": replace(PART, graph=graph(fed("x", None, 3), fed("w", 3, 2), node("y", "MatMul", "x", "x")))},
    "the tensor": {"part": replace(PART, shapes={"x:0": (None, 3)})},
    "preprocessing": {"data": replace(WORDS["data"], preprocess="vgg")},
    "the size": {"data": replace(WORDS["data"], image_size=[8, 8])},
    "an example": {"hashes": ["1f", "2f"]},
    "their order": {"hashes": ["2e", "1f"]},
    "one more": {"hashes": ["1f", "2e", "3d"]},
    "the input": {"inputs": {"x": (FLOAT, (None, 4))}},
    "what is computed at once": {"more": {"block": 16}},
}
THE_SAME = {
    "a variable that it does not read": {"values": {**WORDS["values"], "head/kernel": np.zeros(3)}},
    "the folder": {"data": replace(WORDS["data"], path="there", eval_path="there too")},
    "labels": {"data": replace(WORDS["data"], labels="colour", classes=["a", "b"], balance="sampling")},
    "augmentation, of which the views tell": {"data": replace(WORDS["data"], augment=Augment(flip=True))},
}


@pytest.mark.parametrize("what", OTHERS)
def test_it_changes_with(what: str):
    assert key_of(**{**WORDS, **OTHERS[what]}) != KEY


@pytest.mark.parametrize("what", THE_SAME)
def test_it_stays_with(what: str):
    assert key_of(**{**WORDS, **THE_SAME[what]}) == KEY


def test_what_is_kept_of_many_examples_is_found_by_any_version():
    many = [f"{number:064x}" for number in range(10_000)]
    assert key_of(**{**WORDS, "hashes": many}) == "361c5906bc3bd225f3aeda6a87db5866c9509bb0"
    digests = Digests.of(bytes.fromhex(text) for text in many)
    assert key_of(**{**WORDS, "hashes": digests}) == "361c5906bc3bd225f3aeda6a87db5866c9509bb0"
