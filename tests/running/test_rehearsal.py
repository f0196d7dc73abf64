from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.__main__ import main

SHORT = ["recipe=vgg_2class", "train.steps=4", "eval.probe=false"]


def test_a_dry_run_makes_the_steps_of_the_run_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "run.dir=run", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert "proof: 14 of 14 tensors identical to the checkpoint" in said
    assert "steps left: 4" in said
    assert "held-out: loss " in said

    assert main([*SHORT, "run.dir=run", "train.log_every_steps=1"]) == 0
    trained = capsys.readouterr().out
    for step in (1, 2):
        loss = next(line.split()[3] for line in said.splitlines() if line.startswith(f"step {step}: loss"))
        assert f"train | step      {step} | loss {loss} " in trained


def test_it_goes_on_from_a_checkpoint_and_leaves_the_run_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "run"
    assert main([*SHORT, f"run.dir={folder}"]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["recipe=vgg_2class", "train.steps=5", "eval.probe=false", f"run.dir={folder}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "step 5: loss" in said
    assert "steps left: 1" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_batch_that_is_not_finite_is_found_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = np.random.default_rng(0).normal(size=(40, 28, 28, 1)).astype(np.float32)
    images[:, 0, 0] = np.inf
    np.savez(tmp_path / "bad.npz", images=images, labels=np.arange(40) % 2)
    # Below the first Relu, of which oneDNN's makes a zero of NaN.
    words = ["cut=conv1/BiasAdd:0", "data.kind=arrays", f"data.path={tmp_path / 'bad.npz'}", "data.preprocess=none"]
    assert main([*SHORT, *words, f"run.dir={tmp_path / 'run'}", "--dry-run"]) == 4
    assert "begins at: input images has Inf" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("other", ["--find-lr", "--check-data", "--multirun"])
def test_it_goes_with_no_other_way_to_run(other: str, capsys: pytest.CaptureFixture[str]):
    assert main([*SHORT, "--dry-run", other]) == 2
    assert "goes with one recipe and not with" in capsys.readouterr().err
