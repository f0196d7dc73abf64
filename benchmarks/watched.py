"""A command that is watched: when it said each line, how long it took, and the most memory that it had."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Lines = Sequence[tuple[float, str]]  # seconds since the start, and what was said


def watched(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs it to its end.

    Returns:
      `lines`; `whole`, the seconds that it took; `memory`, the most that was resident, in bytes.

    Raises:
      RuntimeError: it failed; with its last words.
    """
    began, lines, memory = time.monotonic(), [], [0]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
    )
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


def at(lines: Lines, pattern: str) -> float:
    """When the first line was said in which a pattern is."""
    return next(when for when, line in lines if re.search(pattern, line))


def trained(lines: Lines) -> list[tuple[int, float]]:
    """(step, when) of each line about training."""
    found = [(re.search(r"train \| step +(\d+)", line), when) for when, line in lines]
    return [(int(match[1]), when) for match, when in found if match]
