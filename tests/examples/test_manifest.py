from __future__ import annotations

from pathlib import Path

import pytest

from finetune.examples.data import grouped, hold_out
from finetune.examples.kinds import read_examples
from finetune.recipe import Data
from tests.graphs import refusal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for i in range(40):
        (tmp_path / "deep" / f"p{i // 4}_{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + str(i).encode())
    return tmp_path


def listed(folder: Path, name: str = "m.csv") -> Path:
    lines = [f"deep/p{i // 4}_{i}.png,{'cat' if i % 2 else 'dog'},{i // 4}" for i in range(40)]
    (folder / name).write_text("\n".join(["file,label,patient", *lines]))
    return folder / name


def test_files_lie_beside_the_manifest(folder: Path):
    found, _ = read_examples(Data(path=str(listed(folder)), group="patient"), ["x"], ["labels"])
    assert found.sources[0] == str(folder / "deep" / "p0_0.png")
    assert found.columns["labels"].tolist()[:2] == ["dog", "cat"]
    assert found.columns["patient"].tolist()[:5] == [0, 0, 0, 0, 1]


def test_several_columns_may_be_learnt(folder: Path):
    found, _ = read_examples(Data(path=str(listed(folder))), ["x"], ["label", "patient"])
    assert list(found.columns) == ["label", "patient"]


@pytest.mark.parametrize("group", ["patient", r"/(p\d+)_"])
def test_a_group_is_on_one_side(folder: Path, group: str):
    found, _ = read_examples(Data(path=str(listed(folder)), group=group), ["x"], ["labels"])
    training, held_out = hold_out(found, 0.3, grouped(found, group))
    sides = [{Path(source).name.partition("_")[0] for source in side.sources} for side in (training, held_out)]
    assert not sides[0] & sides[1]
    assert all(sides)
    assert len(training) + len(held_out) == 40


def test_a_group_that_is_none_is_named(folder: Path):
    found, _ = read_examples(Data(path=str(listed(folder))), ["x"], ["labels"])
    error = refusal(grouped, found, r"q\d")
    assert (error.where, "it finds nothing in" in error.what, "(40 such files)" in error.what) == (
        "data.group",
        True,
        True,
    )


def test_a_manifest_has_files_and_labels(folder: Path):
    (folder / "m.csv").write_text("fiel,label\na,b\n")
    error = refusal(read_examples, Data(path=str(folder / "m.csv")), ["x"], ["labels"])
    assert (error.what, error.todo) == ("there is no column 'file'", "did you mean fiel?")
    (folder / "m.csv").write_text("file,lable\na,b\n")
    error = refusal(read_examples, Data(path=str(folder / "m.csv")), ["x"], ["labels"])
    assert (error.where, error.todo) == ("data.labels", "did you mean lable?")
    (folder / "m.jsonl").write_text('{"file": "gone.png", "label": "b"}\n')
    error = refusal(read_examples, Data(path=str(folder / "m.jsonl")), ["x"], ["labels"])
    assert "gone.png (No such file or directory)" in error.where
