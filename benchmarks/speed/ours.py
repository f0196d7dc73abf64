"""Ours, through the door: what a run says is taken down with the time, from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.contenders import BATCH, RATE

RECIPE = f"""
source: {{path: "${{oc.env:SPEED}}/pair/vgg", feeds: {{keep_prob: 1.0}}}}
cut: fc7:0
head: {{classes: 2}}
data: {{kind: images, path: "${{oc.env:SPEED}}/images", preprocess: vgg, holdout: 0.0}}
train: {{batch_size: {BATCH}, optimizer: sgd, learning_rate: {RATE}, epochs: 2}}
cache: {{dir: "${{oc.env:SPEED}}/cache"}}
"""
WHAT: dict[str, Sequence[str]] = {
    "frozen": (),
    "prefix": ("stop_gradient=false", "learn=[['(conv5|fc).*', 1], ['.*', 0]]"),
    "full": ("stop_gradient=false",),
}


def run(folder: Path, run_folder: Path, what: str, words: Sequence[str]) -> dict[str, Any]:
    """Trains; gives the lines with the seconds since the start, the whole time and the most memory."""
    recipe = folder / "ours.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "finetune", f"recipe={recipe}", f"run.dir={run_folder}", *WHAT[what], *words]
    environment = {**os.environ, "SPEED": str(folder.resolve()), "PYTHONUNBUFFERED": "1"}
    began, lines, memory = time.monotonic(), [], [0]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    watch = threading.Thread(target=_most_memory, args=(process, memory))
    watch.start()
    assert process.stdout is not None
    for line in process.stdout:
        lines.append((time.monotonic() - began, line.rstrip()))
    status = process.wait()
    watch.join()
    if status:
        raise RuntimeError("\n".join(line for _, line in lines[-5:]))
    return {"lines": lines, "whole": time.monotonic() - began, "memory": memory[0]}


def _most_memory(process: Any, most: list[int]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        except OSError:
            break
        most[0] = int(found[1]) * 1024 if found else most[0]
        time.sleep(0.2)


def at(lines: Sequence[tuple[float, str]], pattern: str) -> float:
    """When the first line was said in which a pattern is."""
    return next(when for when, line in lines if re.search(pattern, line))


def trained(lines: Sequence[tuple[float, str]]) -> list[tuple[int, float]]:
    """(step, when) of each line about training."""
    found = [(re.search(r"train \| step +(\d+)", line), when) for when, line in lines]
    return [(int(match[1]), when) for match, when in found if match]
