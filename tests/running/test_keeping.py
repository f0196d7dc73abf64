"""What a run keeps is written beside the training, and is what there was when it was asked to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from finetune.compose import compose
from finetune.errors import UserError
from finetune.results import checkpoints, export, report
from finetune.running import keeping
from tests.running.test_training import ALL, HEAD, WORDS, everything, start

ALL_OF_IT = [*WORDS, f"phases=[{HEAD},{ALL}]", "stop_gradient=false", "train.ema=0.5", "eval.keep_best=true"]


def slow(real: Callable[..., Any]) -> Callable[..., Any]:
    def wait(*words: Any) -> Any:
        time.sleep(0.2)
        return real(*words)

    return wait


def test_what_is_written_late_is_what_there_was(tmp_path, monkeypatch):
    composed = compose(ALL_OF_IT)
    assert start(composed, tmp_path / "quick") == 0
    monkeypatch.setattr(checkpoints, "save", slow(checkpoints.save))
    monkeypatch.setattr(export, "write_pair", slow(export.write_pair))
    assert start(composed, tmp_path / "slow") == 0
    quick, late = everything(tmp_path / "quick"), everything(tmp_path / "slow")
    assert {"checkpoints/model-1.index", "checkpoints/model-7.index", "best/model.index"} <= quick.keys()
    assert quick == late


def test_a_step_is_said_to_be_saved_when_it_is(tmp_path, monkeypatch, capsys):
    said: list[bool] = []

    def first(real: Callable[..., Any]) -> Callable[..., Any]:
        def save(folder: Any, name: str, *words: Any) -> Any:
            said.append(f"saved step {name.rpartition('-')[2]}\n" in capsys.readouterr().out)
            return real(folder, name, *words)

        return save

    monkeypatch.setattr(checkpoints, "save", first(checkpoints.save))
    assert start(compose(WORDS), tmp_path / "run") == 0
    assert said == [False] * 7
    assert (tmp_path / "run" / "train.log").read_text().count("saved step") == 7


def full_for(names: set[str], times: int) -> Callable[..., Any]:
    """A disk that does not take these, so many times in all."""
    left, real = [times], checkpoints.save

    def save(folder: Any, name: str, *words: Any) -> Any:
        if name in names and left[0]:
            left[0] -= 1
            raise UserError("storage", str(folder / name), "cannot be written: No space left on device", "free some")
        return real(folder, name, *words)

    return save


def test_a_disk_that_is_full_for_a_while_costs_no_step(tmp_path, monkeypatch, capsys):
    composed = compose(ALL_OF_IT)
    assert start(composed, tmp_path / "whole") == 0
    capsys.readouterr()
    monkeypatch.setattr(checkpoints, "save", full_for({"model-3", "model-4"}, 2))
    assert start(composed, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert said.count("is not saved: ") == 1
    assert "warning: step 3 is not saved: " in said
    assert "model-3: cannot be written: No space left on device; the run goes on and tries again" in said
    assert said.count("storage: the disk takes it again") == 1
    ours, undisturbed = everything(tmp_path / "run"), everything(tmp_path / "whole")
    lacking = {"checkpoints/model-3.index", "checkpoints/model-4.index"}  # what is newer has taken their place
    assert ours == {name: values for name, values in undisturbed.items() if name not in lacking}


def test_what_is_held_is_tried_again_while_nothing_newer_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "AGAIN", 0.0)
    monkeypatch.setattr(report.Report, "advance", lambda tell, loss: time.sleep(0.1))  # slower than the disk
    monkeypatch.setattr(checkpoints, "save", full_for({"model-3"}, 1))
    assert start(compose([*WORDS, "checkpoint.every_steps=3", "checkpoint.keep=20"]), tmp_path / "run") == 0
    assert (tmp_path / "run/checkpoints/model-3.index").exists()
    assert "saved step 3" in (tmp_path / "run/train.log").read_text()


def test_at_the_end_the_run_waits_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "PAUSE", 0.01)
    monkeypatch.setattr(checkpoints, "save", full_for({"model-7"}, 5))
    assert start(compose(WORDS), tmp_path / "run") == 0
    assert "saved step 7" in (tmp_path / "run/train.log").read_text()


def test_a_disk_that_stays_full_ends_the_run_and_what_was_saved_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "PAUSE", 0.01)
    monkeypatch.setattr(keeping, "PATIENCE", 0.1)
    real = checkpoints.save
    composed = compose(ALL_OF_IT)
    monkeypatch.setattr(checkpoints, "save", full_for({f"model-{n}" for n in range(3, 8)}, 10**6))
    with pytest.raises(UserError, match="model-7: cannot be written: No space left on device"):
        start(composed, tmp_path / "run")
    monkeypatch.setattr(checkpoints, "save", real)
    kept = [step for step, _ in checkpoints.candidates(tmp_path / "run" / "checkpoints", "model")]
    assert kept == [2, 1]
    assert "saved step 3" not in (tmp_path / "run" / "train.log").read_text()
    assert start(composed, tmp_path / "run") == 0
    assert start(composed, tmp_path / "whole") == 0
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def test_what_no_phase_changes_is_the_sources_and_not_read_again(tmp_path, monkeypatch):
    composed = compose([*WORDS, "train.steps=2"])
    assert start(composed, tmp_path / "run") == 0
    read: list[Any] = []
    real = checkpoints.load_newest

    def load(*words: Any) -> Any:
        found = real(*words)
        read.append(found and found.values)
        return found

    monkeypatch.setattr(checkpoints, "load_newest", load)
    assert start(compose([*WORDS, "train.steps=4"]), tmp_path / "run") == 0
    assert {n for n in read[0] if not n.startswith(("optimizer/", "monitor/"))} >= {"head/kernel", "head/bias"}
    assert not {n for n in read[0] if n.startswith(("conv1", "fc6", "fc7"))}
    assert np.isfinite(read[0]["head/kernel"]).all()
