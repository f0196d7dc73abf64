"""The story of a run, from the command line: trained, killed and continued, finished, and refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from finetune.reading.weights import read_index, read_tensors

SHORT = ["recipe=vgg_2class", "train.steps=12", "checkpoint.every_steps=3", "eval.every_steps=6"]
# Everything that changes at once: dropout inside the old graph, a live backbone, an optimizer with slots, its rate,
# images that are varied and mixed.
RANDOM = ["stop_gradient=false", "source.feeds.keep_prob={train:0.5,eval:1.0}"]
RANDOM += ["data.augment.preset=medium", "data.augment.rotate=10", "train.mixup=0.2", "train.cutmix=1.0"]
RANDOM += ["train.schedule=cosine", "train.warmup_steps=4", "train.clip_norm=1.0"]
RANDOM += ["learn_decay=0.7", "lora.match=[fc7/weights]", "learn=[[fc7/weights,0],['.*',1]]"]
RANDOM += ["train.weight_decay=0.1", "train.l2_sp=0.1", "train.l2_head=0.1"]


def finetune(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finetune", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


def everything(prefix: Path) -> dict[str, np.ndarray]:
    return read_tensors(str(prefix), sorted(read_index(str(prefix))))


def files(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(f.relative_to(folder)): (f.stat().st_mtime_ns, hashlib.sha256(f.read_bytes()).hexdigest())
        for f in folder.rglob("*")
        if f.is_file()
    }


def logged(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    result = finetune(*SHORT, *RANDOM, "run.dir=run", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("init: ")
    return folder / "run"


def test_a_killed_run_goes_on_and_ends_bit_identical(whole: Path, tmp_path: Path):
    command = [sys.executable, "-m", "finetune", *SHORT, *RANDOM, "run.dir=run"]
    log = tmp_path / "run" / "train.log"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and "saved step 6" in log.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    result = finetune(*SHORT, *RANDOM, "run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    before, began = result.stdout.splitlines()[:2]
    assert re.fullmatch(rf"process {process.pid} on .* was ended from outside: .*", before)
    assert began.startswith("resume: ")
    for prefix in ("checkpoints/model-12", "model/model"):
        ours, undisturbed = everything(tmp_path / "run" / prefix), everything(whole / prefix)
        assert ours.keys() == undisturbed.keys()
        assert all(np.array_equal(ours[name], undisturbed[name]) for name in ours)
    assert logged(tmp_path / "run") == logged(whole)


def test_the_same_command_again_says_that_it_is_finished_and_changes_no_file(whole: Path):
    before = files(whole)
    result = finetune(*SHORT, *RANDOM, "run.dir=run", cwd=whole.parent)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("finished: ")
    assert files(whole) == before


def test_more_steps_go_on_from_where_it_ended(whole: Path, tmp_path: Path):
    longer = [w.replace("steps=12", "steps=15") if w.startswith("train") else w for w in SHORT]
    result = finetune(*SHORT, "run.dir=run", cwd=tmp_path)
    result = finetune(*longer, "run.dir=run", cwd=tmp_path)
    assert result.stdout.startswith("resume: ")
    assert "after step 12" in result.stdout.splitlines()[0]
    assert (tmp_path / "run/checkpoints/model-15.index").exists()


def test_a_frozen_backbone_is_bit_identical_to_the_source(tmp_path: Path):
    from finetune.packaged import asset
    from finetune.reading.metagraph import find_pair

    result = finetune(*SHORT, "run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = everything(tmp_path / "run/model/model")
    source = everything(Path(find_pair(asset("demo/small_vgg")).prefix))
    frozen = [name for name in written if not name.startswith("head/")]
    assert len(frozen) == len(written) - 2
    assert all(np.array_equal(written[name], source[name]) for name in frozen)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(whole: Path, tmp_path: Path):
    finetune(*SHORT, "run.dir=run", cwd=tmp_path)
    record = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps({**record, "status": "running"}))
    data = tmp_path / "run/checkpoints/model-12.data-00000-of-00002"
    data.write_bytes(data.read_bytes()[:-100])
    result = finetune(*SHORT, "run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "after step 9" in result.stdout.splitlines()[0]
    assert "damaged" in result.stdout.splitlines()[1]


def test_106_another_recipe_does_not_get_the_folder(whole: Path):
    before = files(whole)
    result = finetune(*SHORT, *RANDOM, "run.dir=run", "train.learning_rate=0.5", cwd=whole.parent)
    assert result.returncode == 2
    assert "train.learning_rate: 0.001 there, 0.5 now" in result.stderr
    assert files(whole) == before


def test_a_redirected_log_has_no_carriage_returns_and_no_line_twice(whole: Path):
    text = (whole / "train.log").read_text()
    assert "\r" not in text
    assert len(set(text.splitlines())) == len(text.splitlines())


def test_a_run_goes_on_with_the_engine_that_it_began_with(tmp_path: Path):
    begun = finetune(*SHORT, "engine.onednn=true", "engine.threads=1", "run.dir=run", cwd=tmp_path)
    assert "engine: oneDNN on, 1 thread, as the recipe has it" in begun.stdout
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["engine"] == {"onednn": True, "threads": 1, "xla": False}
    # The record counts: here of an engine that no recipe and no machine would give.
    (tmp_path / "run/run.json").write_text(json.dumps({**record, "engine": {"onednn": False, "threads": 3}}))
    words = [*SHORT, "engine.onednn=true", "engine.threads=1", "run.dir=run", "train.steps=13"]
    again = finetune(*words, cwd=tmp_path)
    assert "engine: oneDNN off, 3 threads, as this run began" in again.stdout, again.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["engine"] == {"onednn": False, "threads": 3}
    other = finetune(*words[:-1], "train.steps=14", "engine.mode=default", cwd=tmp_path)
    assert (other.returncode, "engine.mode: 'auto' there, 'default' now" in other.stderr) == (2, True)
