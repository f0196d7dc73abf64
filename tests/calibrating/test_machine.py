"""What is read of a machine, from files as systems have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune.calibrating import machine
from finetune.calibrating.machine import this_machine

CPUINFO = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 fma\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)


@pytest.mark.usefixtures("cores")
def test_hyperthreads_are_no_cores(tmp_path: Path):
    siblings = {f"{machine._CPUS}/cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}\n" for n in range(4)}
    found = this_machine(write(tmp_path, {"proc/cpuinfo": CPUINFO, **siblings}))
    assert (found.processor, found.cores, found.physical, found.threads()) == ("A CPU", 4, 2, [2])


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    "files",
    [
        {"sys/fs/cgroup/cpu.max": "250000 100000\n"},
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_what_a_container_may_use(tmp_path: Path, files: dict[str, str]):
    found = this_machine(write(tmp_path, files))
    assert (found.quota, found.physical, found.threads()) == (2.5, None, [3])


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("limit", ["max 100000", "-1 100000", "", "x y", "1 0"])
def test_a_limit_that_is_none(tmp_path: Path, limit: str):
    assert this_machine(write(tmp_path, {"sys/fs/cgroup/cpu.max": limit})).quota is None


def test_gpus_are_those_of_the_driver_unless_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t NVIDIA A100\nIRQ: 1\n"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert this_machine(tmp_path).gpus == ("NVIDIA A100",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert this_machine(tmp_path).gpus == ()


def test_another_processor_has_other_flags(tmp_path: Path):
    first = this_machine(write(tmp_path, {"proc/cpuinfo": CPUINFO}))
    same = this_machine(write(tmp_path, {"proc/cpuinfo": CPUINFO.replace("avx2 fma", "fma avx2")}))
    other = this_machine(write(tmp_path, {"proc/cpuinfo": CPUINFO.replace("avx2", "avx512f")}))
    assert first.record() == same.record() != other.record()
