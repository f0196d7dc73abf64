"""How a step computes, from the command line: killed and continued, and a search that leaves the run untrained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from finetune.__main__ import main
from finetune.reading.weights import read_index, read_tensors

SHORT = ["recipe=vgg_2class", "train.steps=4", "train.batch_size=8", "checkpoint.every_steps=2", "eval.every_steps=4"]
SHORT += ["train.log_every_steps=1", "run.dir=run"]
WAYS = {
    "half": [
        "stop_gradient=false",
        "source.feeds.keep_prob={train:0.5,eval:1.0}",
        "train.accumulate=2",
        "train.ema=0.9",
        "train.precision=mixed_float16",
        "train.schedule=step",
        "train.decay_steps=[3]",
    ],
    "xla": ["train.xla=true", "train.ema=0.5", "train.schedule=exponential", "train.schedule_end=0.1"],
}


def everything(prefix: Path) -> dict[str, np.ndarray]:
    return read_tensors(str(prefix), sorted(read_index(str(prefix))))


def logged(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]


def as_if_killed(run: Path, after: int) -> None:
    """What a kill between this save and the next leaves."""
    shutil.rmtree(run / "model")
    for file in (run / "checkpoints").glob("model-*"):
        if int(file.name.split("-")[1].split(".")[0]) > after:
            file.unlink()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "running"}))


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_ends_bit_identical(way: str, workdir: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*SHORT, *WAYS[way]]) == 0
    shutil.copytree("run", "whole")
    as_if_killed(Path("run"), after=2)
    capsys.readouterr()
    assert main([*SHORT, *WAYS[way]]) == 0
    assert "goes on after step 2" in capsys.readouterr().out
    for prefix in ("checkpoints/model-4", "model/model"):
        ours, undisturbed = everything(Path("run", prefix)), everything(Path("whole", prefix))
        assert ours.keys() == undisturbed.keys()
        assert [name for name in ours if not np.array_equal(ours[name], undisturbed[name])] == []
    assert logged(Path("run")) == logged(Path("whole"))
    pair, saved = everything(Path("run/model/model")), everything(Path("run/checkpoints/model-4"))
    np.testing.assert_array_equal(pair["head/kernel"], saved["head/kernel/ExponentialMovingAverage"])
    assert not np.array_equal(pair["head/kernel"], saved["head/kernel"])
    assert not any(name.endswith("ExponentialMovingAverage") for name in pair)
    assert all(
        "gradient_norm" in line or "loss_scale" in line for line in logged(Path("run")) if line["phase"] == "train"
    )


def test_looking_for_a_rate_leaves_the_run_untrained(workdir: Path, capsys: pytest.CaptureFixture[str]):
    short = [word for word in SHORT if not word.startswith("run.dir")]
    assert main([*short, "run.dir=apart"]) == 0
    assert main([*SHORT, "--find-lr"]) == 0
    assert sorted(f.name for f in Path("run").iterdir()) == ["lr.jsonl", "lr.svg"]
    capsys.readouterr()
    assert main(SHORT) == 0
    assert "begins at step 0" in capsys.readouterr().out
    ours, apart = everything(Path("run/checkpoints/model-4")), everything(Path("apart/checkpoints/model-4"))
    assert [name for name in apart if not np.array_equal(ours[name], apart[name])] == []


def test_looking_for_a_rate_goes_with_one_recipe(capsys: pytest.CaptureFixture[str]):
    assert main([*SHORT, "--find-lr", "--multirun"]) == 2
    assert "--find-lr: goes with one recipe and not with --multirun" in capsys.readouterr().err
