"""A recipe that asks for GPUs is told why there are none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.devices import Seen, check_gpus, driver_version
from finetune.errors import UserError

NODE = Seen(by_tensorflow=0, by_driver=2, driver="550.54.15", cuda="12.5.1", chatter="")


def test_what_is_there_may_be_used():
    check_gpus(2, replace(NODE, by_tensorflow=2), {})
    check_gpus(0, replace(NODE, by_driver=0), {})


@pytest.mark.parametrize(
    ("seen", "environment", "said"),
    [
        (NODE, {"CUDA_VISIBLE_DEVICES": "-1"}, "CUDA_VISIBLE_DEVICES='-1' hides all; unset it"),
        (replace(NODE, cuda=""), {}, r"built without CUDA; pip install 'tensorflow\[and-cuda\]'"),
        (replace(NODE, driver="", by_driver=0), {}, "this machine has no NVIDIA driver; start on a node with GPUs"),
        (replace(NODE, by_driver=0), {}, r"the driver \(550.54.15\) sees 0; have the scheduler"),
        (replace(NODE, by_tensorflow=1), {"CUDA_VISIBLE_DEVICES": "1"}, "CUDA_VISIBLE_DEVICES='1' leaves no more"),
        (NODE, {}, "built for CUDA 12.5.1, and cannot use the driver 550.54.15; pip install -U"),
        (
            replace(NODE, chatter="one\nE0 failed call to cuInit: CUDA_ERROR_NO_DEVICE: none\n"),
            {},
            r"cannot use the driver 550.54.15 \(E0 failed call to cuInit: CUDA_ERROR_NO_DEVICE: none\)",
        ),
    ],
)
def test_fewer_gpus_than_asked_for_are_refused_with_the_reason(seen: Seen, environment: dict[str, str], said: str):
    with pytest.raises(UserError, match=r"engine.gpus: 2 asked for, and TensorFlow sees \d: .*" + said):
        check_gpus(2, seen, environment)


def test_the_driver_is_asked_for_its_version(tmp_path: Path):
    assert driver_version(tmp_path) == ""
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    told = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n"
    (tmp_path / "proc/driver/nvidia/version").write_text(told)
    assert driver_version(tmp_path) == "550.54.15"


@pytest.mark.skipif(driver_version() != "", reason="this machine has a GPU")
def test_a_run_that_needs_a_gpu_ends_in_one_line_where_there_is_none(tmp_path: Path):
    words = ["recipe=vgg_2class", "engine.gpus=1", f"run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "finetune", *words], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error[recipe] engine.gpus: 1 asked for, and TensorFlow sees 0: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
