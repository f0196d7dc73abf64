"""Rows become batches when they are needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.examples import batches
from finetune.examples.data import Examples
from finetune.examples.fields import Rows, ragged
from finetune.recipe import Augment, Data
from tests.graphs import refusal

FLOAT, INT32, STRING, INT64 = 1, 3, 7, 9  # of types.proto


def examples(**arrays: Any) -> Examples:
    count = len(next(iter(arrays.values())))
    return Examples([str(i) for i in range(count)], {}, [str(i) for i in range(count)], arrays)


def tokens() -> Rows:
    return replace(ragged([[1, 2, 3], [4], [5, 6]], np.dtype(np.int64)), flat=True)


def loaded(found: Examples, inputs: dict[str, Any], rows: list[int], **words: Any) -> dict[str, Any]:
    load = batches.make_loader(found, inputs, Data(**{"preprocess": "none", **words}))
    return {name: tensor.numpy() for name, tensor in load(tf.constant(rows, tf.int64)).items()}


def test_rows_are_padded_to_the_longest_of_their_batch():
    inputs = {"ids": (INT32, (None, None))}
    batch = loaded(examples(ids=tokens()), inputs, [1, 2])["ids"]
    assert (batch.tolist(), batch.dtype) == ([[4, 0], [5, 6]], np.int32)
    assert loaded(examples(ids=tokens()), inputs, [1, 0], pad={"ids": -1})["ids"].tolist() == [[4, -1, -1], [1, 2, 3]]
    assert loaded(examples(ids=tokens()), inputs, [1], bucket=[2, 4])["ids"].tolist() == [[4, 0]]
    assert loaded(examples(ids=tokens()), {"ids": (INT32, (None, 4))}, [2])["ids"].tolist() == [[5, 6, 0, 0]]


def test_the_lengths_are_those_before_padding():
    inputs = {"ids": (INT32, (None, None)), "n": (INT64, (None,))}
    batch = loaded(examples(ids=tokens()), inputs, [0, 1], lengths={"ids": "n"})
    assert batch["n"].tolist() == [3, 1]


def test_only_rows_of_the_batch_are_read():
    asked: list[int] = []

    def read(index: np.ndarray) -> np.ndarray:
        asked.extend(index.tolist())
        return np.ones((len(index), 2), np.float32)

    found = examples(x=Rows(1_000_000, np.dtype(np.float32), (2,), read))
    assert loaded(found, {"x": (FLOAT, (None, 2))}, [7, 999_999])["x"].shape == (2, 2)
    assert asked == [7, 999_999]


def test_encoded_images_are_decoded():
    content = [tf.io.encode_png(tf.fill([4, 6, 3], tf.constant(v, tf.uint8))).numpy() for v in (10, 20)]
    found = examples(x=replace(ragged([[c] for c in content], np.dtype(object)), flat=True))
    batch = loaded(found, {"x": (FLOAT, (None, 8, 8, 1))}, [1, 0])["x"]
    assert (batch.shape, batch.dtype) == ((2, 8, 8, 1), np.float32)
    assert batch[:, 0, 0, 0].tolist() == [20, 10]


def test_text_is_text():
    found = examples(x=np.array(["é", "b"]))
    assert loaded(found, {"x": (STRING, (None,))}, [1, 0])["x"].tolist() == [b"b", "é".encode()]
    error = refusal(loaded, found, {"x": (FLOAT, (None,))}, [0])
    assert error.what == "'x' is text, the input takes float32"
    assert refusal(loaded, examples(x=np.ones(2)), {"x": (STRING, (None,))}, [0]).todo == "convert it"


def test_a_row_that_cannot_be_read_any_more_is_no_bug_of_ours():
    def gone(index: np.ndarray) -> np.ndarray:
        raise OSError(5, "Input/output error")

    found = examples(x=Rows(2, np.dtype(np.float32), (2,), gone))
    load = batches.make_loader(found, {"x": (FLOAT, (None, 2))}, Data(preprocess="none"))
    error = refusal(list, batches.evaluation_batches(found, load, 2, whole=False))
    assert "Input/output error" in error.what


# ---- balance


def members(*counts: int) -> list[np.ndarray]:
    return np.split(np.random.default_rng(0).permutation(sum(counts)), np.cumsum(counts)[:-1])


def stream(steps: int, batch_size: int, of: list[np.ndarray], seed: int = 0) -> np.ndarray:
    return np.concatenate([batches.balanced_order(step, batch_size, of, seed).numpy() for step in range(steps)])


def test_every_class_comes_equally_often_and_so_does_each_of_its_examples():
    of = members(3, 20, 1)
    found = stream(18, 10, of)  # 60 turns of three classes
    counts = np.bincount(found, minlength=24)
    assert [counts[m].sum() for m in of] == [60, 60, 60]
    assert [set(counts[m].tolist()) for m in of] == [{20}, {3}, {60}]


def test_the_balanced_stream_is_a_function_of_seed_and_position():
    of = members(3, 20)
    assert np.array_equal(stream(6, 10, of), stream(12, 5, of))
    assert not np.array_equal(stream(6, 10, of), stream(6, 10, of, seed=1))
    kinds = np.isin(stream(20, 10, of), of[0])
    assert len({tuple(pair) for pair in kinds.reshape(-1, 2).tolist()}) == 2  # the order of the classes changes


@pytest.mark.parametrize("start", [0, 3])
def test_a_balanced_run_is_resumed_where_it_was(start: int):
    found = replace(examples(x=np.arange(10.0)), targets={"head": np.array([0] * 9 + [1])})
    load = batches.make_loader(found, {"x": (FLOAT, (None,))}, Data(preprocess="none"))
    of = [np.arange(9), np.array([9])]
    whole = [b[2].numpy().tolist() for b in batches.training_batches(found, load, 0, 6, 4, 0, of)]
    rest = [b[2].numpy().tolist() for b in batches.training_batches(found, load, start, 6, 4, 0, of)]
    assert whole[start:] == rest
    assert all(batch.count(9) == 2 for batch in whole)


def test_encoded_images_and_spectrograms_are_varied_row_by_row():
    draw = np.random.default_rng(0)
    contents = np.array(
        [tf.io.encode_png(draw.integers(0, 256, (9, 9, 1), np.uint8)).numpy() for _ in range(4)], object
    )
    kinds = {"image": (FLOAT, (None, 9, 9, 1)), "sound": (FLOAT, (None, 10, 8))}
    found = examples(image=contents, sound=draw.random((4, 10, 8), np.float32))
    words = Augment(rotate=90.0, mask_time=0.9)
    load = batches.make_loader(found, kinds, Data(kind="tfrecord", preprocess="none", augment=words))
    seeds = tf.constant([[0, 0], [0, 1], [0, 2], [0, 3]], tf.int64)
    order, back = tf.constant([0, 1, 2, 3], tf.int64), tf.constant([3, 2, 1, 0], tf.int64)
    plain, varied, reverse = load(order), load(order, seeds), load(back, seeds[::-1])
    for name in kinds:
        assert varied[name].shape == plain[name].shape
        assert not np.array_equal(varied[name], plain[name])
        assert np.array_equal(varied[name], reverse[name][::-1])
    only = batches.make_loader(found, kinds, Data(kind="tfrecord", preprocess="none", augment=Augment(rotate=90.0)))
    assert np.array_equal(only(order, seeds)["sound"], plain["sound"])
