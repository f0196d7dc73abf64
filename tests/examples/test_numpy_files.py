"""`.npy` files stay where they are: only rows that are asked for are read. (`.npz` files: test_data.py.)"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from finetune.examples.data import hold_out
from finetune.examples.fields import Rows
from finetune.examples.numpy_files import _beside, arrays
from tests.graphs import refusal


def saved(folder: Path, **content: np.ndarray) -> Path:
    for name, array in content.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_a_folder_has_an_array_for_each_input(tmp_path: Path):
    saved(tmp_path, left=np.arange(6).reshape(3, 2), right=np.ones(3), labels=np.array([0, 1, 1]), who=np.arange(3))
    found = arrays(str(tmp_path), ["right", "left"], ["labels"], ["who", "none"])
    left = (found.arrays or {})["left"]
    assert isinstance(left, Rows)
    assert left.read(np.array([2, 0])).tolist() == [[4, 5], [0, 1]]
    assert {name: column.tolist() for name, column in found.columns.items()} == {"labels": [0, 1, 1], "who": [0, 1, 2]}


def test_a_file_is_the_lone_input_and_its_labels_lie_beside(tmp_path: Path):
    saved(tmp_path, images=np.ones((3, 2)), other=np.ones(4), labels=np.array([0, 1, 1]))
    found = arrays(str(tmp_path / "images.npy"), ["x"], ["labels"])
    assert list(found.arrays or ()) == ["x"]
    error = refusal(arrays, str(tmp_path / "images.npy"), ["x"], ["label"])
    assert (error.where, error.todo) == ("data.labels", "did you mean labels?")


def test_rows_are_those_of_an_npz_file(tmp_path: Path):
    content = {"x": np.random.default_rng(0).random((300, 2)), "labels": np.arange(300) % 2}
    np.savez(tmp_path / "d.npz", **content)  # type: ignore[arg-type]
    (tmp_path / "n").mkdir()
    packed = arrays(str(tmp_path / "d.npz"), ["x"], ["labels"])
    mapped = arrays(str(saved(tmp_path / "n", **content)), ["x"], ["labels"])
    assert packed.hashes == mapped.hashes
    held = (hold_out(mapped, 0.2)[1].arrays or {})["x"]
    assert isinstance(held, Rows)
    assert np.array_equal(held.read(np.arange(len(held))), (hold_out(packed, 0.2)[1].arrays or {})["x"])


def test_rows_are_not_kept(tmp_path: Path):
    with open(tmp_path / "x.npy", "wb") as file:  # 8 GB that nobody has written
        header = {"descr": "<f4", "fortran_order": False, "shape": (2_000_000, 1000)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 8_000_000_000)
    (rows,) = _beside(tmp_path).values()
    before = _resident()
    for start in range(0, 2_000_000, 10_000):
        rows.read(np.arange(start, start + 50))
    assert _resident() - before < 20_000_000


@pytest.mark.parametrize("dtype", ["<f4", ">i2", "U3", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(5,), (5, 2, 3), (5, 0)])
@pytest.mark.parametrize("index", [[], [3], [0, 1, 2], [4, 1, 2, 2, 0], [1, 0]])
def test_rows_are_those_of_the_array(tmp_path: Path, dtype: str, order: str, shape: tuple[int, ...], index: list[int]):
    array = np.asarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", array)
    (held,) = _beside(tmp_path).values()
    found = held.read(np.array(index, np.int64))
    assert (found.dtype, found.shape) == (array.dtype, array[index].shape)
    assert np.array_equal(found, array[index])


def test_a_file_that_was_cut_off_since_is_no_row_of_zeros(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    (held,) = _beside(tmp_path).values()
    os.truncate(tmp_path / "x.npy", os.path.getsize(tmp_path / "x.npy") - 1)
    assert held.read(np.array([2])).tolist() == [[1, 1, 1]]
    with pytest.raises(ValueError, match=r"x\.npy is shorter than it was"):
        held.read(np.array([2, 3]))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_pickles_are_refused(tmp_path: Path):
    saved(tmp_path, labels=np.arange(2))
    np.save(tmp_path / "x.npy", np.array([{}, []], object), allow_pickle=True)
    assert "Python objects" in refusal(arrays, str(tmp_path), ["x"], ["labels"]).what
    assert refusal(arrays, str(tmp_path / "y.npy"), ["x"], ["labels"]).where == "data.path"
