"""Texts that are kept as numbers say what a list of them would."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from finetune.examples.compact import Digests, Texts, numbered, sortable, taken

COUNT = 5000  # more than are made at once
MADE = [hashlib.sha256(str(number).encode()) for number in range(COUNT)]
TEXTS = {
    "digests": (Digests.of(one.digest() for one in MADE), [one.hexdigest() for one in MADE]),
    "numbers": (numbered(COUNT), [str(number) for number in range(COUNT)]),
    "of rows": (
        Texts(np.arange(2 * COUNT).reshape(-1, 2), "{0[0]}@{0[1]}".format),
        [f"{2 * n}@{2 * n + 1}" for n in range(COUNT)],
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_they_are_those_of_a_list(kind: str):
    found, expected = TEXTS[kind]
    assert list(found) == expected
    assert found == expected
    assert found != [*expected[:-1], "another"]
    assert found != expected[:-1]
    assert (found[0], found[-1], found[np.int64(7)]) == (expected[0], expected[-1], expected[7])
    assert found[4990:] == expected[4990:]
    assert list(reversed(found[:3])) == expected[2::-1]
    assert expected[4321] in found
    assert len(found[:0]) == 0
    assert not found[:0]


@pytest.mark.parametrize("kind", TEXTS)
def test_some_of_them_are_taken_at_once(kind: str):
    found, expected = TEXTS[kind]
    places = np.array([4999, 3, 3])
    assert taken(found, places) == taken(expected, places) == [expected[4999], expected[3], expected[3]]
    assert type(taken(found, places)) is type(found)


def test_digests_sort_as_their_texts_do():
    digests, texts = TEXTS["digests"]
    assert np.argsort(sortable(digests)).tolist() == np.argsort(sortable(texts)).tolist()
    assert int(digests[0][:16], 16) == digests.heads[0]


def test_none_are_none():
    assert (len(Digests.of([])), list(Digests.of([])), Digests.of([]).heads.tolist()) == (0, [], [])
