"""What a kill leaves of a pair that is being replaced is made whole again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from finetune.protos import MetaGraphDef
from finetune.results import export
from finetune.results.checkpoints import tidy
from finetune.results.export import mend
from finetune.results.manifests import digest_of


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "model.index").write_text(content)
    return path


def test_a_pair_between_two_names_gets_its_own_back(tmp_path: Path):
    folder(tmp_path / ".before-best.123", "old")
    folder(tmp_path / ".writing-best.123", "half")
    folder(tmp_path / ".writing-model.123", "of another pair")
    (tmp_path / ".writing-run.json.123").touch()
    (tmp_path / ".writing-notes").touch()  # somebody else's
    (tmp_path / ".before-best.notes").touch()
    mend(tmp_path / "best")
    tidy(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == [".before-best.notes", ".writing-notes", "best"]
    assert (tmp_path / "best/model.index").read_text() == "old"


def test_a_pair_that_was_replaced_stays(tmp_path: Path):
    folder(tmp_path / "best", "new")
    folder(tmp_path / ".before-best.123", "old")
    mend(tmp_path / "best")
    assert [(f.name, (f / "model.index").read_text()) for f in tmp_path.iterdir()] == [("best", "new")]


def test_where_nothing_was_written_nothing_is_mended(tmp_path: Path):
    mend(tmp_path / "best")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exchanges", [True, False])
def test_89_a_pair_takes_the_place_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool):
    if not exchanges:
        monkeypatch.setattr(export, "_exchanged", lambda one, other: False)
    for value in (1.0, 2.0):
        export.write_pair(tmp_path / "best", MetaGraphDef(), {"v": np.float32(value)}, {}, {"card.md": str(value)})
        assert [f.name for f in tmp_path.iterdir()] == ["best"]
        assert (tmp_path / "best" / "card.md").read_text() == str(value)
        digests = json.loads((tmp_path / "best" / "model.manifest").read_text())["files"]
        assert digests.keys() | {"model.manifest"} == {file.name for file in (tmp_path / "best").iterdir()}
        assert all(digest_of(tmp_path / "best" / name) == digest for name, digest in digests.items())
        assert export.read_back(tmp_path / "best", ["v"], {})["v"] == value
