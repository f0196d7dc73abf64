"""Equal examples are found by what sorts fast, and told of by all of their digest."""

from __future__ import annotations

import numpy as np

from finetune.examples.compact import Digests, numbered
from finetune.examples.data import Examples
from finetune.examples.duplicates import copies, warnings


def of(*contents: bytes, labels: list[int]) -> Examples:
    digests = Digests.of(content.ljust(32, b"\0") for content in contents)
    return Examples(numbered(len(contents)), {"labels": np.array(labels)}, digests)


NEAR = b"the same eight bytes, then others"[:30]


def test_digests_that_begin_alike_are_no_copies():
    found = of(NEAR, b"b", NEAR + b"!", b"b", b"c", labels=[0, 1, 2, 1, 3])
    assert copies(found) == [[1, 3]]
    assert warnings(found, of(NEAR + b"?", labels=[5]), ["labels"]) == []


def test_those_on_both_sides_and_those_that_contradict_are_named():
    training, held_out = of(b"a", b"b", b"a", labels=[0, 1, 2]), of(b"c", b"b", labels=[3, 4])
    assert warnings(training, held_out, ["labels"]) == [
        "warning: 1 of 2 held-out examples are in the training data too: 1 = 1",
        "warning: 2 examples have the content of another one and another label: 2 (2) = 0 (0), 1 (4) = 1 (1)",
    ]


def test_nothing_is_wrong_with_none():
    assert warnings(of(b"a", labels=[0]), of(labels=[]), ["labels"]) == []
