"""A file of records is read once from its beginning to its end, in blocks of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.examples.scanning import Asked, column, kinds_of_first, records, scan
from tests.examples.test_tfrecords import written

NUMBERS = [{"x": [number / 3, -1.0], "y": [number] * number, "label": number % 3} for number in range(1, 6)]


def file(path: Path, *examples: dict[str, Any]) -> tuple[str, int, Any]:
    content = Path(written(path / "a", *examples)).read_bytes()
    return "a", len(content), lambda offset, size: content[offset : offset + size]


@pytest.mark.parametrize("at_once", [12, 13, 80, 100, 170, 1 << 24])
def test_the_records_are_the_same_however_much_is_read_at_once(tmp_path: Path, at_once: int):
    where = file(tmp_path, *NUMBERS)
    found = list(records(*where, at_once))
    assert len(found) == 5
    assert found == list(records(*where))
    ends = [start + 12 + len(content) + 4 for start, content in found]
    assert [0, *ends] == [*(start for start, _ in found), where[1]]


def test_the_first_record_tells_the_kinds(tmp_path: Path):
    assert kinds_of_first(*file(tmp_path, *NUMBERS)) == {"x": "float_list", "y": "int64_list", "label": "int64_list"}
    assert kinds_of_first("a", 0, lambda offset, size: b"") == {}


def test_digests_are_those_of_runs_that_are_there(tmp_path: Path):
    """Which examples are held out, and what is kept of them, goes by these digests."""
    asked = Asked((("y", "int64_list"), ("x", "float_list")), ())
    found = scan(*file(tmp_path, *NUMBERS), asked)
    assert [row.tobytes().hex()[:12] for row in found.digests[:2]] == ["82ee397801d4", "a27fc7dfa53b"]
    text = [{"x": [b"a" * number, b"b"]} for number in range(2)]
    found = scan(*file(tmp_path, *text), Asked((("x", "bytes_list"),), ()))
    assert [row.tobytes().hex()[:12] for row in found.digests] == ["0c601110aa23", "cf6ab613e394"]


def test_the_fewest_and_the_most_values(tmp_path: Path):
    found = scan(*file(tmp_path, *NUMBERS), Asked((("y", "int64_list"), ("x", "float_list")), ()))
    assert found.spans == {"y": (1, 5), "x": (2, 2)}
    assert found.begins().tolist() == [*(start for start, _ in records(*file(tmp_path, *NUMBERS))), 335]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 1, 2], np.array([3, 1, 2])),
        ([0.5, 1.0, 0.1], np.array([0.5, 1.0, np.float32(0.1)], np.float64)),
        ([b"cat", b"dog", b"cat"], np.array(["cat", "dog", "cat"], object)),
        ([b"3", b"01", b"3"], np.array([3, 1, 3])),
        ([b"3", b"1.5", b"3"], np.array([3, 1.5, 3])),
        ([[0, 1], [1, 1], [0, 0]], np.array([[0, 1], [1, 1], [0, 0]])),
        ([[0.5, 1.0], [1.0, 1.0], [0.0, 0.0]], np.array([[0.5, 1], [1, 1], [0, 0]])),
        ([[b"cat", b"dog"], [b"dog"], [b"cat", b"dog"]], np.array(["cat|dog", "dog", "cat|dog"], object)),
        ([[1, 2], [3], [4]], np.array(["1|2", "3", "4"], object)),
        ([b"\xff", "ü".encode(), b"x"], np.array(["\ufffd", "ü", "x"], object)),
    ],
)
def test_a_column_is_the_one_of_all_files(tmp_path: Path, labels: list[Any], expected: np.ndarray):
    kind = {"i": "int64_list", "f": "float_list"}.get(np.ravel(labels[0]).dtype.kind, "bytes_list")
    asked = Asked((), (("label", kind),))
    scanned = [scan(*file(tmp_path, *({"label": one} for one in part)), asked) for part in (labels[:1], labels[1:])]
    found = column([one.cells["label"] for one in scanned])
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()
