from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune.examples.fields import Rows, as_rows, ragged
from finetune.examples.padding import fitted, lengths_to_pad_to, padded
from tests.graphs import refusal


def flat(*rows: list[int]) -> Rows:
    return replace(ragged(rows, np.dtype(np.int64)), flat=True)


def shapes(rows: Rows) -> list[tuple[int, ...]]:
    return [np.shape(row) for row in rows.read(np.arange(len(rows)))]


def test_flat_rows_take_the_shape_of_the_input():
    assert shapes(fitted("x", flat([1, 2, 3, 4, 5, 6]), (2, 3))) == [(2, 3)]
    assert shapes(fitted("x", flat([1]), ())) == [()]
    found = fitted("x", flat([1, 2, 3, 4], [5, 6]), (None, 2))
    assert (found.shape, found.longest, shapes(found)) == ((None, 2), 2, [(2, 2), (1, 2)])


@pytest.mark.parametrize("wanted", [(5,), (4, 2), (None, None), ()])
def test_other_shapes_are_refused_with_both(wanted: tuple[int | None, ...]):
    error = refusal(fitted, "x", flat([1, 2, 3, 4, 5, 6]), wanted)
    assert (error.where, "'x' has rows of [6], the input takes [" in error.what) == ("source.inputs.x", True)


def test_arrays_keep_their_shape():
    assert fitted("x", np.ones((3, 2)), (None,)).shape == (2,)
    assert "rows of [2], the input takes [1, 2]" in refusal(fitted, "x", np.ones((3, 2)), (1, 2)).what


def test_rows_of_several_axes_are_padded_on_each():
    batch = padded([np.ones((2, 1)), np.ones((1, 3))], 9, [4])
    assert batch.shape == (2, 4, 3)
    assert batch[0].tolist() == [[1, 9, 9], [1, 9, 9], [9, 9, 9], [9, 9, 9]]


def test_the_input_or_the_buckets_say_how_long_a_batch_may_be():
    rows = flat([1, 2, 3], [4])
    assert lengths_to_pad_to("x", rows, (5,), [2]) == [5]
    assert lengths_to_pad_to("x", rows, (None,), [2, 4]) == [2, 4]
    assert lengths_to_pad_to("x", rows, None, []) == []
    assert refusal(lengths_to_pad_to, "x", rows, (2,), []).where == "source.inputs.x"
    error = refusal(lengths_to_pad_to, "x", rows, (None,), [1, 2])
    assert (error.where, error.todo) == ("data.bucket", "add 3")


def test_an_array_is_rows():
    assert as_rows(np.arange(6).reshape(3, 2)).read(np.array([2, 0])).tolist() == [[4, 5], [0, 1]]
