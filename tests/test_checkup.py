"""`--check-data` says everything, with an exit status, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune import packaged
from finetune.__main__ import main

WORDS = ["recipe=vgg_2class", "head.classes=null", "--check-data"]


def test_good_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    assert main(WORDS) == 0
    said = capsys.readouterr().out.splitlines()
    assert "split: 474 examples to train on, 126 held out" in said
    assert said[-1] == "0 errors, 0 warnings"
    assert list(tmp_path.iterdir()) == []


def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    demo = Path(packaged.asset("demo/dress_coat"))
    for name in ("coat", "dress"):
        (tmp_path / name).mkdir()
        for file in sorted((demo / name).iterdir())[:3]:
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "coat" / "a.png").touch()
    (tmp_path / "dress" / "b.png").write_text("no image")
    assert main([*WORDS, f"data.path={tmp_path}", f"data.eval_path={tmp_path}/none"]) == 2
    said = capsys.readouterr().out
    for line in (
        f"error: {tmp_path}/coat/a.png: it is empty",
        f"error: {tmp_path}/dress/b.png: it is not an image",
        f"error: data.eval_path: there is no folder '{tmp_path}/none'",
        "warning: class coat has only 3 examples",
        "3 errors, 2 warnings",
    ):
        assert line in said


def test_synthetic_data_needs_no_check(capsys: pytest.CaptureFixture[str]):
    assert main([*WORDS, "data.kind=synthetic"]) == 2
    assert "--check-data" in capsys.readouterr().err
    assert main([*WORDS, "--cfg", "job"]) == 2
    assert "goes with one recipe and not with --cfg" in capsys.readouterr().err
