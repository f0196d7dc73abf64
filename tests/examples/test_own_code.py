from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.examples.fields import as_rows
from finetune.examples.own_code import read_from_code
from tests.graphs import refusal

CODE = """
import numpy as np

def table(count=4):
    return {"x": np.arange(count), "label": ["a", "b"] * (count // 2), "who": np.arange(count) // 2}

def ragged():
    return {"x": [[1, 2], [3]], "label": [0, 1]}

class Pairs:
    def __len__(self):
        return 3
    def __getitem__(self, number):
        if number >= 3:
            raise IndexError
        return np.full((number + 1, 2), number), number % 2

def pairs():
    return Pairs()

def elements():
    return [{"x": b"png", "label": "a"}, {"x": b"gif", "label": "b"}, {"x": b"gif"}]

def broken():
    return 1 / 0

def number():
    return 7

other = 3

def encoded():
    return [{"x": bytes([number, 7, 0, 0]), "label": number} for number in range(3)]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code_of_a_user.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def read(name: str, **args: object):
    return read_from_code(f"code_of_a_user:{name}", args, {"x": []}, ["labels"], ["who"])


def test_encoded_images_are_read_byte_by_byte():
    rows = as_rows((read("encoded").arrays or {})["x"])
    assert list(rows.read(np.array([2, 0]))) == [b"\2\7\0\0", b"\0\7\0\0"]


def test_a_function_of_the_current_folder_makes_arrays():
    found = read("table", count=2)
    assert {name: column.tolist() for name, column in found.columns.items()} == {"labels": ["a", "b"], "who": [0, 0]}
    assert as_rows((found.arrays or {})["x"]).read(np.array([1])).tolist() == [1]
    assert len(read_from_code("code_of_a_user.table", {}, {"x": []}, ["labels"], [])) == 4


def test_rows_may_have_different_lengths():
    rows = as_rows((read("ragged").arrays or {})["x"])
    assert (rows.shape, [r.tolist() for r in rows.read(np.arange(2))]) == ((None,), [[1, 2], [3]])


def test_pairs_are_an_input_and_its_label():
    found = read("pairs")
    rows = as_rows((found.arrays or {})["x"])
    assert (rows.shape, rows.longest, found.columns["labels"].tolist()) == ((None, 2), 3, [0, 1, 0])
    assert rows.read(np.array([1]))[0].tolist() == [[1, 1], [1, 1]]
    assert len(set(found.hashes)) == 3


@pytest.mark.parametrize(
    ("name", "what", "todo"),
    [
        ("tabel", "code_of_a_user has no function 'tabel'", "did you mean table?"),
        ("other", "code_of_a_user has no function 'other'", ""),
        ("broken", "ZeroDivisionError: division by zero (code_of_a_user.py, line 25)", "your own code"),
        ("number", "it returns a int", "return a mapping of arrays"),
        ("elements", "it has no 'label'", "give all examples the same names"),
    ],
)
def test_what_does_not_work_is_said_in_a_line(name: str, what: str, todo: str):
    error = refusal(read, name)
    assert error.what == what
    assert todo in error.todo


def test_other_mistakes():
    assert "unexpected keyword argument 'cuont'" in refusal(read, "table", cuont=3).what
    error = refusal(read_from_code, "code_of_a_usr:table", {}, {"x": []}, ["labels"], [])
    assert (error.where, error.todo) == ("data.path", "did you mean code_of_a_user?")
    assert refusal(read_from_code, "table", {}, {"x": []}, ["labels"], []).what == "'table' names no function"
