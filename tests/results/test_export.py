"""What a kill leaves of a pair that is being replaced is made whole again."""

from __future__ import annotations

from pathlib import Path

from finetune.results.export import mend


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "model.index").write_text(content)
    return path


def test_a_pair_between_two_names_gets_its_own_back(tmp_path: Path):
    folder(tmp_path / ".before-best.123", "old")
    folder(tmp_path / ".writing-best.123", "half")
    folder(tmp_path / ".writing-model.123", "of another pair")
    mend(tmp_path / "best")
    assert sorted(f.name for f in tmp_path.iterdir()) == [".writing-model.123", "best"]
    assert (tmp_path / "best/model.index").read_text() == "old"


def test_a_pair_that_was_replaced_stays(tmp_path: Path):
    folder(tmp_path / "best", "new")
    folder(tmp_path / ".before-best.123", "old")
    mend(tmp_path / "best")
    assert [(f.name, (f / "model.index").read_text()) for f in tmp_path.iterdir()] == [("best", "new")]


def test_where_nothing_was_written_nothing_is_mended(tmp_path: Path):
    mend(tmp_path / "best")
    assert list(tmp_path.iterdir()) == []
