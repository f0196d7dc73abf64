"""The machine that a benchmark was run on."""

from __future__ import annotations

import os
from pathlib import Path


def machine() -> str:
    """The processor, as Linux calls it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a processor")
    return f"{os.cpu_count()} cores of {model}"
