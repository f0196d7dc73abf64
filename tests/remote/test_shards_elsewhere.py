"""TFRecord shards that lie elsewhere are read where they lie."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.examples import batches
from finetune.examples.fields import as_rows
from finetune.examples.record_index import Keeping
from finetune.examples.tfrecords import read_records
from finetune.recipe import Data
from tests.examples.test_tfrecords import written
from tests.remote.cloud import Cloud

FIELDS: dict[str, list[str]] = {"x": []}
FLOAT = 1  # of types.proto
CONTENT = 20_000  # bytes of a record


@pytest.fixture
def shards(bucket: Cloud, tmp_path: Path) -> Path:
    """Three shards here, and the same in the bucket."""
    for number in range(3):
        draws = np.random.default_rng(number).normal(size=(8, CONTENT // 4)).tolist()
        written(tmp_path / f"train-{number}.tfrecord", *({"x": x, "label": row % 2} for row, x in enumerate(draws)))
    for path in tmp_path.glob("train-*"):
        bucket.put(f"shards/{path.name}", path.read_bytes())
    bucket.put("shards/readme.txt", b"x")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["gs://bucket/shards", "gs://bucket/shards/train-*", "gs://bucket/shards/train-?.tfrecord"]
)
def test_they_are_those_that_lie_here(shards: Path, bucket: Cloud, name: str):
    here = read_records(f"{shards}/train-*", FIELDS, ["label"], [], "data.path")
    there = read_records(name, FIELDS, ["label"], [], "data.path")
    assert list(there.sources) == list(here.sources)
    assert list(there.hashes) == list(here.hashes)
    assert there.columns["label"].tolist() == here.columns["label"].tolist()
    assert here.arrays is not None
    assert there.arrays is not None
    asked = np.array([17, 0, 5, 23])
    for a, b in zip(as_rows(here.arrays["x"]).read(asked), as_rows(there.arrays["x"]).read(asked), strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_row_costs_no_more_than_itself(shards: Path, bucket: Cloud):
    examples = read_records("gs://bucket/shards", FIELDS, ["label"], [], "data.path")
    assert examples.arrays is not None
    before = bucket.bytes_read
    as_rows(examples.arrays["x"]).read(np.arange(24))
    assert bucket.bytes_read - before < 24 * (CONTENT + 10_000)


def test_a_later_start_reads_none_of_them(shards: Path, bucket: Cloud, tmp_path: Path):
    keeping = Keeping(tmp_path / "kept", 1e9)
    for name in [name for name in bucket.objects if name.startswith("shards/train")]:
        bucket.changed[name] = bucket.changed[name].replace(year=2020)  # settled
    first = read_records("gs://bucket/shards", FIELDS, ["label"], [], "data.path", keeping)
    begin = len(bucket.asked)
    again = read_records("gs://bucket/shards", FIELDS, ["label"], [], "data.path", keeping)
    assert bucket.read(begin) == []
    assert list(again.hashes) == list(first.hashes)
    bucket.put("shards/train-1.tfrecord", bucket.objects["shards/train-2.tfrecord"])
    changed = read_records("gs://bucket/shards", FIELDS, ["label"], [], "data.path", keeping)
    assert {*bucket.read(begin)} == {"shards/train-1.tfrecord"}
    assert list(changed.hashes)[8:16] == list(first.hashes)[16:]


def test_packed_ones_are_copied_whole(shards: Path, bucket: Cloud):
    here = read_records(str(shards / "train-0.tfrecord"), FIELDS, ["label"], [], "data.path")
    bucket.put("packed/train-0.tfrecord.gz", gzip.compress((shards / "train-0.tfrecord").read_bytes()))
    there = read_records("gs://bucket/packed", FIELDS, ["label"], [], "data.path")
    assert list(there.hashes) == list(here.hashes)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gs://bucket/shardz", "'gs://bucket/shardz': there is nothing of that name; did you mean shards?"),
        ("gs://bucket/other", "'gs://bucket/other': no file in it has tfrecord in its name"),
    ],
)
def test_none_of_that_name(shards: Path, bucket: Cloud, name: str, said: str):
    bucket.put("other/readme.txt", b"x")
    with pytest.raises(UserError, match=re.escape(said)):
        read_records(name, FIELDS, ["label"], [], "data.path")


def test_a_damaged_one_is_named(shards: Path, bucket: Cloud):
    content = bytearray(bucket.objects["shards/train-1.tfrecord"])
    content[5000] ^= 1
    bucket.put("shards/train-1.tfrecord", bytes(content))
    with pytest.raises(UserError, match=r"train-1.tfrecord: the record at byte 0 cannot be read"):
        read_records("gs://bucket/shards", FIELDS, ["label"], [], "data.path")


def test_a_bucket_that_is_gone_in_mid_training_is_no_fault_of_the_data(shards: Path, bucket: Cloud):
    examples = read_records("gs://bucket/shards", FIELDS, ["label"], [], "data.path")
    load = batches.make_loader(examples, {"x": (FLOAT, (None, CONTENT // 4))}, Data(kind="tfrecord"))
    given = batches.evaluation_batches(examples, load, 8, whole=True)
    bucket.refuses = re.compile("^READ ")
    with pytest.raises(UserError) as error:
        list(given)
    assert re.fullmatch(
        r"error\[storage\] data.path: the rows of a batch cannot be read \(\[Errno \d+\] .* HTTP response code 403: "
        r"'gs://bucket/shards/train-0.tfrecord'\); see to it, then give the same command again",
        str(error.value),
    )
