"""Records are found by where they begin, and damage is an error before a step is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.examples.fields import Rows
from finetune.examples.tfrecords import read_records
from tests.graphs import refusal


def feature(value: Any) -> tf.train.Feature:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def written(path: Path, *examples: dict[str, Any], compression: str = "") -> str:
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=compression)) as writer:
        for example in examples:
            features = tf.train.Features(feature={name: feature(value) for name, value in example.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())
    return str(path)


def read(path: str | Path, **fields: list[str]):
    return read_records(str(path), fields or {"x": []}, ["labels"], [], "data.path")


def values(rows: Any, *places: int) -> list[Any]:
    assert isinstance(rows, Rows)
    return [np.asarray(row).tolist() for row in rows.read(np.array(places))]


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path, compression: str):
    written(tmp_path / "b.tfrecord", {"x": [5.0, 6.0], "label": b"dog"}, compression=compression)
    written(
        tmp_path / "a.tfrecord",
        {"x": [1.0, 2.0], "label": b"cat"},
        {"x": [3.0, 4.0], "label": b"dog"},
        compression=compression,
    )
    for path in (tmp_path, tmp_path / "*.tfrecord"):
        found = read(path)
        assert found.columns["labels"].tolist() == ["cat", "dog", "dog"]
        rows = (found.arrays or {})["x"]
        assert isinstance(rows, Rows)
        assert (rows.shape, rows.dtype) == ((2,), np.float32)
        assert values(rows, 2, 0, 2) == [[5, 6], [1, 2], [5, 6]]
        assert [source.partition("@")[0] for source in found.sources] == ["a.tfrecord", "a.tfrecord", "b.tfrecord"]


def test_lists_of_different_lengths_have_no_length(tmp_path: Path):
    path = written(tmp_path / "a", {"x": [1, 2, 3], "label": 0}, {"x": [7], "label": 1}, {"label": 1})
    found = read(path)
    rows = (found.arrays or {})["x"]
    assert isinstance(rows, Rows)
    assert (rows.shape, rows.longest, rows.flat) == ((None,), 3, True)
    assert values(rows, 0, 1, 2) == [[1, 2, 3], [7], []]
    assert found.columns["labels"].tolist() == [0, 1, 1]


def test_the_content_is_that_of_the_inputs(tmp_path: Path):
    path = written(tmp_path / "a", {"x": 1, "label": 0}, {"x": 1, "label": 1}, {"x": 2, "label": 1})
    first, second, third = read(path).hashes
    assert first == second != third


def test_a_feature_may_have_another_name(tmp_path: Path):
    path = written(tmp_path / "a", {"image/encoded": b"x", "id": b"n", "label": 0})
    assert values((read(path, x=["image/encoded"]).arrays or {})["x"], 0) == [[b"x"]]
    error = refusal(read, path, x=["image/encodd"])
    assert (error.where, error.todo) == ("source.inputs.x", "did you mean image/encoded?")
    assert "data.columns={x: [NAME]}" in refusal(read, path).todo


def test_a_label_of_every_record(tmp_path: Path):
    path = written(tmp_path / "a", {"x": 1, "label": 0}, {"x": 1})
    error = refusal(read, path)
    assert (error.where.startswith("a@"), error.what) == (True, "this record has no 'label'")
    error = refusal(read, written(tmp_path / "b", {"x": 1, "lable": 0}))
    assert (error.where, error.todo) == ("data.labels", "did you mean lable?")


def test_a_feature_has_one_kind(tmp_path: Path):
    path = written(tmp_path / "a", {"x": 1, "label": 0}, {"x": 1.0, "label": 1})
    assert refusal(read, path).what == "'x' has floats, in the first record it has integers"


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (0, "this is no TFRecord file"),
        (20, "the record at byte 0 cannot be read: it does not match its checksum"),
        ("second", "cannot be read: its length does not match its checksum"),
        ("cut", "cannot be read: it ends before its length says"),
    ],
)
def test_130_damage_is_named_with_its_place(tmp_path: Path, place: int | str, what: str):
    path = Path(written(tmp_path / "a", {"x": [1] * 40, "label": 0}, {"x": [2] * 40, "label": 1}))
    content = bytearray(path.read_bytes())
    if place == "cut":
        del content[-3:]
    else:
        content[len(content) // 2 if place == "second" else int(place)] ^= 1
    path.write_bytes(content)
    error = refusal(read, path)
    assert error.where == str(path)
    assert what in error.what


def test_what_is_no_example_or_no_file_is_refused(tmp_path: Path):
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        writer.write(b"\xff\xff\xff\xff")
    assert "it is no tf.train.Example" in refusal(read, tmp_path / "a").what
    assert refusal(read, tmp_path / "none-*").where == "data.path"
    (tmp_path / "e").touch()
    assert refusal(read, tmp_path / "e").what == "there are no records"
    packed = Path(written(tmp_path / "z", {"x": 1, "label": 0}, compression="GZIP"))
    packed.write_bytes(packed.read_bytes()[:-12])
    assert "this gzip file is damaged" in refusal(read, packed).what
