"""What the disk does not take is tried again; all other faults are told of at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.interruption import Interrupted
from finetune.running import patience
from finetune.running.patience import patiently

FULL = OSError(28, "No space left on device", "f")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE", 0.01)


def do(errors: list[Exception], given: int) -> int:
    if errors:
        raise errors.pop(0)
    return given


def test_it_is_tried_again_and_told_of_once():
    said: list[str] = []
    full = UserError("storage", "g", "cannot be written: Disk quota exceeded")
    assert patiently(said.append, lambda: None, do, [FULL, full, FULL], 7) == 7
    assert said == [
        "warning: f: cannot be written: No space left on device; the run waits, and tries again",
        "storage: the disk takes it again",
    ]


def test_where_the_disk_takes_it_nothing_is_said():
    said: list[str] = []
    assert patiently(said.append, lambda: None, do, [], 7) == 7
    assert said == []


def test_who_asks_it_to_end_does_not_wait():
    def check() -> None:
        raise Interrupted("SIGTERM")

    with pytest.raises(Interrupted):
        patiently(lambda line: None, check, do, [FULL], 7)


@pytest.mark.parametrize("error", [UserError("numerics", "step 1", "is NaN"), ValueError("a bug")])
def test_other_faults_are_told_of_at_once(error):
    errors = [error, error]
    with pytest.raises(type(error)):
        patiently(lambda line: None, lambda: None, do, errors, 7)
    assert len(errors) == 1


def test_patience_has_an_end(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    with pytest.raises(UserError, match="f: cannot be written: No space left on device") as refused:
        patiently(lambda line: None, lambda: None, do, [FULL] * 1000, 7)
    assert refused.value.status == 5
    assert Path(refused.value.where).name == "f"
