"""What is soon done is not told of."""

from __future__ import annotations

import sys

import pytest

from finetune.examples import progress
from finetune.examples.progress import Progress


def test_nothing_is_said_of_what_is_soon_done(capsys: pytest.CaptureFixture[str]):
    with Progress("data", 3, "files") as told:
        for count in (1, 2, 3):
            told.at(count)
    assert not told.is_told
    assert capsys.readouterr() == ("", "")


def test_what_takes_long_is_told_of_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("data", 100, "files") as told:
        for count in range(1, 101):
            now[0] += 1.0
            told.at(count)
    assert told.is_told
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "data: 3 of 100 files are looked at; this takes a while",
        "data: 33 of 100 files are looked at",
        "data: 63 of 100 files are looked at",
        "data: 93 of 100 files are looked at",
    ]


def test_a_terminal_has_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "AFTER", 0.0)
    with Progress("data", 3, "files") as told:
        for count in (1, 2, 3):
            told.at(count)
    err = capsys.readouterr().err
    assert "1/3" in err
    assert "data: 2" not in err
