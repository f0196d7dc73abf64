from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.examples.fields import as_rows
from finetune.examples.text_tables import read_rows
from tests.graphs import refusal


def table(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def read(path: str, labels: tuple[str, ...] = ("labels",), **fields: list[str]):
    return read_rows(path, fields or {"x": []}, labels, ["who"], "data.path")


def values(found: Any, name: str = "x") -> list[Any]:
    rows = as_rows(found.arrays[name])
    return [np.asarray(row).tolist() for row in rows.read(np.arange(len(rows)))]


def test_a_lone_input_takes_all_columns_but_labels_and_groups(tmp_path: Path):
    found = read(table(tmp_path / "t.csv", "a,who,label,b\n1,p,cat,2.5\n3,q,dog,4\n"))
    assert values(found) == [[1, 2.5], [3, 4]]
    assert {name: column.tolist() for name, column in found.columns.items()} == {
        "labels": ["cat", "dog"],
        "who": ["p", "q"],
    }
    assert found.sources == ["line 2", "line 3"]


def test_columns_are_chosen_and_ordered(tmp_path: Path):
    path = table(tmp_path / "t.tsv", "a\tb\tc\tlabel\n1\t2\t3\t0\n4\t5\t6\t1\n")
    found = read(path, x=["c", "a"], y=["b"])
    assert (values(found), values(found, "y")) == ([[3, 1], [6, 4]], [[2], [5]])
    assert found.columns["labels"].tolist() == [0, 1]
    error = refusal(read, path, x=["a", "d"])
    assert error.what == f"{path} has no column 'd'"


def test_a_cell_may_be_a_list(tmp_path: Path):
    found = read(table(tmp_path / "t.csv", "x,label\n3 17 4,a\n5,b\n"))
    assert values(found) == [[3, 17, 4], [5]]
    rows = as_rows((found.arrays or {})["x"])
    assert (rows.shape, rows.dtype, rows.longest, rows.flat) == ((None,), np.int64, 3, True)


def test_json_lines_have_lists_and_text(tmp_path: Path):
    path = table(tmp_path / "t.jsonl", '{"x": [1, 2], "label": "a"}\n\n{"label": "b", "x": [0.5]}\n')
    found = read(path)
    assert values(found) == [[1, 2], [0.5]]
    found = read(table(tmp_path / "s.jsonl", '{"x": "good film", "label": 1.5}\n{"x": "bad", "label": 2}\n'))
    assert values(found) == [["good film"], ["bad"]]
    assert found.columns["labels"].tolist() == [1.5, 2.0]


def test_several_names_in_one_cell_stay_together(tmp_path: Path):
    found = read(table(tmp_path / "t.jsonl", '{"x": 1, "label": ["a", "b"]}\n{"x": 2, "label": ["b"]}\n'))
    assert found.columns["labels"].tolist() == ["a|b", "b"]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a,label\n1,x\nzz,y\n", ", line 3", "'a' is 'zz', in line 2 it is a number"),
        ("a,label\n1,x\n,y\n", ", line 3", "'a' is empty"),
        ("a,label\n1,\n2,y\n", ", line 2", "'label' is empty"),
        ("a,b,label\n1,2\n", ", line 2", "it has 2 cells, the first line names 3 columns"),
        ("a,a,label\n1,2,3\n", "", "two columns are called 'a'"),
        ("a,label\n", "", "there are no rows"),
        ("a,b,label\n1,t,x\n", "", "'b' is text and 'a' numbers, and one input cannot take both"),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(tmp_path: Path, text: str, where: str, what: str):
    path = table(tmp_path / "t.csv", text)
    error = refusal(read, path)
    assert (error.where, error.what) == (path + where, what)


def test_what_is_no_table_is_refused(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes(b"a,label\n\xff\xfe,1\n")
    assert "no table in UTF-8" in refusal(read, str(tmp_path / "t.csv")).what
    error = refusal(read, table(tmp_path / "t.jsonl", '{"x": 1, "label": 0}\n[1]\n'))
    assert error.what == "line 2 is no JSON object"
    assert refusal(read, str(tmp_path / "none.csv")).where == "data.path"
    path = table(tmp_path / "u.jsonl", '{"x": 1, "label": 0}\n{"x": 2}\n')
    assert refusal(read, path).where == f"{path}, line 2"
