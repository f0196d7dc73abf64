"""A later start knows what is in record files without reading them, and never takes it for what is there no more."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.__main__ import main
from finetune.examples import progress, record_index, tfrecords
from finetune.examples.data import Examples
from finetune.examples.record_index import Index, Keeping
from finetune.examples.scanning import Asked, Found
from finetune.packaged import asset
from tests.examples.test_tfrecords import values, written
from tests.graphs import refusal

SHARDS = [
    [{"x": [1.0, 2.0], "label": b"cat", "size": 3}, {"x": [3.0, 4.0], "label": b"dog", "size": 300}],
    [],
    [{"x": [5.0], "label": b"dog", "size": -70_000}],
]


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return Keeping(tmp_path / "cache" / "records", 1e9)


def shards(folder: Path, compression: str = "") -> Path:
    folder.mkdir()
    for number, examples in enumerate(SHARDS):
        settled(written(folder / f"{number}.tfrecord", *examples, compression=compression))
    return folder


def settled(path: str | Path, seconds: float = 10.0) -> None:
    """Makes a file as old as one that is trusted."""
    os.utime(path, ns=(0, time.time_ns() - int(seconds * 1e9)))


def read(path: Path, keeping: Keeping | None = None, others: Any = ("size",)) -> Examples:
    return tfrecords.read_records(str(path), {"x": []}, ["labels"], list(others), "data.path", keeping)


def same(one: Examples, other: Examples) -> bool:
    columns = {name: (column.dtype, column.tolist()) for name, column in one.columns.items()}
    assert columns == {name: (column.dtype, column.tolist()) for name, column in other.columns.items()}
    assert (one.arrays or {})["x"].shape == (other.arrays or {})["x"].shape  # type: ignore[union-attr]
    every = range(len(one))
    assert values((one.arrays or {})["x"], *every) == values((other.arrays or {})["x"], *every)
    return one.hashes == other.hashes and one.sources == other.sources


def spoil(folder: Path) -> None:
    """Puts zeros into all files, which stay as large and as old as they are."""
    for path in folder.iterdir():
        about = path.stat()
        path.write_bytes(bytes(about.st_size))
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def kept(keeping: Keeping) -> list[Path]:
    return sorted(keeping.folder.iterdir()) if keeping.folder.exists() else []


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_a_later_start_reads_no_content(tmp_path: Path, keeping: Keeping, compression: str):
    path = shards(tmp_path / "data", compression)
    first = read(path, keeping)
    assert same(first, read(path))
    assert same(first, read(path, keeping))
    assert len(kept(keeping)) == 4  # three files, and what the first record has
    spoil(path)
    later = read(path, keeping)
    assert (list(later.hashes), list(later.sources)) == (list(first.hashes), list(first.sources))
    assert later.columns["size"].tolist() == [3, 300, -70_000]
    refusal(read, path)


def test_a_file_that_has_changed_is_read_again(tmp_path: Path, keeping: Keeping):
    path = shards(tmp_path / "data")
    read(path, keeping)
    other = {"x": [1.0, 9.0], "label": b"cow", "size": 3}
    settled(written(path / "0.tfrecord", other), 20.0)
    assert same(read(path, keeping), read(path))
    assert read(path, keeping).columns["labels"].tolist() == ["cow", "dog"]


def test_a_file_that_is_too_young_is_read_each_time(tmp_path: Path, keeping: Keeping):
    path = shards(tmp_path / "data")
    settled(path / "2.tfrecord", 0.5)
    read(path, keeping)
    assert len(kept(keeping)) == 3
    settled(path / "2.tfrecord", -3600.0)  # of a clock that is ahead
    read(path, keeping)
    assert len(kept(keeping)) == 3


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, keeping: Keeping):
    path = shards(tmp_path / "data") / "0.tfrecord"
    index, asked = Index(keeping, partial(tfrecords._stamp, {})), Asked((("x", "float_list"),), ())

    def look() -> Found:
        settled(path, 30.0)
        return Found(np.zeros(0, np.int64), np.zeros((0, 32), np.uint8), {}, {})

    index.found(str(path), asked, look)
    assert kept(keeping) == []


def test_other_features_are_another_index(tmp_path: Path, keeping: Keeping):
    path = shards(tmp_path / "data")
    assert "size" not in read(path, keeping, others=()).columns
    assert read(path, keeping).columns["size"].tolist() == [3, 300, -70_000]
    assert len(kept(keeping)) == 7


def test_damaged_files_of_the_index_are_made_anew(tmp_path: Path, keeping: Keeping):
    path = shards(tmp_path / "data")
    first = read(path, keeping)
    draw = np.random.default_rng(0)
    for file in kept(keeping):
        content = bytearray(file.read_bytes())
        content[int(draw.integers(len(content)))] ^= 1 << int(draw.integers(8))
        file.write_bytes(content if draw.random() < 0.5 else content[: len(content) // 2])
    assert same(read(path, keeping), first)
    spoil(path)
    assert list(read(path, keeping).hashes) == list(first.hashes)


def test_faults_are_told_as_without_an_index(tmp_path: Path, keeping: Keeping):
    path = shards(tmp_path / "data")
    read(path, keeping)
    settled(written(path / "2.tfrecord", {"x": 1, "label": b"cat", "size": 3}))
    for _ in range(2):
        assert str(refusal(read, path, keeping)) == str(refusal(read, path))
    content = bytearray((path / "0.tfrecord").read_bytes())
    content[30] ^= 1
    (path / "0.tfrecord").write_bytes(content)
    settled(path / "0.tfrecord")
    for _ in range(2):
        assert str(refusal(read, path, keeping)) == str(refusal(read, path))


def test_where_nothing_may_be_written_what_is_there_is_read(tmp_path: Path, keeping: Keeping):
    path, reading = shards(tmp_path / "data"), replace(keeping, writes=False)
    assert same(read(path, reading), read(path))
    assert kept(keeping) == []
    read(path, keeping)
    spoil(path)
    assert len(read(path, reading)) == 3


def test_a_disk_that_does_not_take_it_ends_nothing(
    tmp_path: Path, keeping: Keeping, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "AFTER", 0.0)
    path = shards(tmp_path / "data")
    assert same(read(path, replace(keeping, most=10)), read(path))
    told = capsys.readouterr().err.splitlines()
    assert "data: what they hold is not kept: more than cache.max_gb has room for" in told
    keeping.folder.rmdir()
    keeping.folder.write_text("a file in the place of the folder")
    assert same(read(path, keeping), read(path))
    assert "data: what they hold is not kept: File exists" in capsys.readouterr().err


def test_it_is_told_where_it_took_long(
    tmp_path: Path, keeping: Keeping, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    path = shards(tmp_path / "data")
    monkeypatch.setattr(progress, "AFTER", 0.0)
    read(path, keeping)
    assert capsys.readouterr().err.splitlines() == [
        "data: 1 of 3 files of records are looked at; this takes a while",
        f"data: what they hold is kept: {keeping.folder}",
    ]


# ---- Several workers


def found(number: int) -> Found:
    return Found(np.array([number]), np.full((1, 32), number, np.uint8), {"x": (1, 1)}, {})


def looked_at(tmp_path: Path, keeping: Keeping, count: int) -> list[int]:
    """The files that a worker reads, in its order."""
    paths = [str(tmp_path / f"{number}") for number in range(count)]
    for path in paths:
        Path(path).touch()
        settled(path, 1000.0)
    seen: list[int] = []

    def look(number: int) -> Found:
        seen.append(number)
        return found(number)

    asked = Asked((("x", "float_list"),), ())
    index = Index(keeping, lambda path: (path, 0, 0))
    assert [one.sizes.tolist() for one in index.all(paths, asked, look)] == [[number] for number in range(count)]
    return seen


def test_each_worker_begins_with_another_file_and_goes_on_from_the_first(tmp_path: Path, keeping: Keeping):
    orders = [looked_at(tmp_path, replace(keeping, worker=w, workers=3, writes=False), 7) for w in range(3)]
    assert orders == [[0, 1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 0, 1], [4, 5, 6, 0, 1, 2, 3]]


def test_more_workers_than_files(tmp_path: Path, keeping: Keeping):
    orders = [looked_at(tmp_path, replace(keeping, worker=w, workers=5, writes=False), 2) for w in range(5)]
    assert orders == [[0, 1], [0, 1], [0, 1], [1, 0], [1, 0]]


def test_what_another_has_made_meanwhile_is_read(tmp_path: Path, keeping: Keeping):
    """The other one works while this one looks at its first file."""
    paths = [str(tmp_path / f"{number}") for number in range(6)]
    asked, stamp = Asked((("x", "float_list"),), ()), lambda path: (path, 0, 0)
    seen: list[int] = []

    def look(number: int) -> Found:
        if not seen:
            other = Index(replace(keeping, worker=1, workers=2), stamp)
            for theirs in (3, 4, 5, 0):
                other.found(paths[theirs], asked, lambda theirs=theirs: found(theirs))
        seen.append(number)
        return found(number)

    every = Index(replace(keeping, worker=0, workers=2), stamp).all(paths, asked, look)
    assert seen == [0, 1, 2]
    assert [int(one.sizes[0]) for one in every] == list(range(6))


def test_numbers_take_as_few_bytes_as_hold_them():
    narrow = record_index._narrow
    given = [0, 255], [-1, 127], [0, 256], [-1, 255], [0, 1 << 31], [-1, 1 << 31], [0, 1 << 62], []
    kept = [narrow(np.array(one, np.int64)) for one in given]
    assert [array.dtype for array in kept] == ["u1", "i1", "u2", "i2", "u4", "i8", "i8", "i8"]
    assert [array.tolist() for array in kept] == list(given)
    assert narrow(np.float32([1])).dtype == np.float32


# ---- A run


def test_a_run_keeps_it_in_its_cache_and_a_dry_run_does_not(workdir: Path):
    for folder in sorted(Path(asset("demo/dress_coat")).iterdir()):
        examples = [{"image": file.read_bytes(), "label": folder.name.encode()} for file in sorted(folder.iterdir())]
        settled(written(workdir / f"{folder.name}.tfrecord", *examples))
    words = ["recipe=vgg_2class", "data.kind=tfrecord", "data.path=*.tfrecord", "train.steps=2", "eval.probe=false"]
    words += ["cache.dir=cache"]
    assert main([*words, "--dry-run"]) == 0
    assert not Path("cache").exists()
    assert main([*words, "cache.mode=off", "run.dir=without"]) == 0
    assert not Path("cache").exists()
    for name in ("first", "again"):
        assert main([*words, f"run.dir={name}"]) == 0
        assert len(list(Path("cache/records").iterdir())) == 3
    records = [json.loads(Path(name, "run.json").read_text())["digests"] for name in ("without", "first", "again")]
    assert records[0] == records[1] == records[2]
