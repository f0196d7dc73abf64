"""The GPUs that a recipe asks for, and why TensorFlow sees fewer of them.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import UserError


@dataclass(frozen=True)
class Seen:
    """What there is: GPUs by TensorFlow and by the driver, and what TensorFlow was built for.

    `driver` is its version, empty where there is none; `cuda` that which TensorFlow was built for, empty for none.
    `chatter` is what TensorFlow said while it started.
    """

    by_tensorflow: int
    by_driver: int
    driver: str
    cuda: str
    chatter: str


def check_gpus(wanted: int, seen: Seen, environment: Mapping[str, str]) -> None:
    """Refuses to run where fewer GPUs are seen than wanted.

    Raises:
      UserError: saying what is most likely in the way.
    """
    if seen.by_tensorflow >= wanted:
        return
    why, todo = _reason(seen, environment)
    what = f"{wanted} asked for, and TensorFlow sees {seen.by_tensorflow}: {why}"
    raise UserError("recipe", "engine.gpus", what, todo)


def _reason(seen: Seen, environment: Mapping[str, str]) -> tuple[str, str]:
    """What is so, and what to do."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES='{visible}' hides all", "unset it, or have the scheduler give the job a GPU"
    if not seen.cuda:
        return "it is built without CUDA", "pip install 'tensorflow[and-cuda]'"
    if not seen.driver:
        return "this machine has no NVIDIA driver", "start on a node with GPUs, such as with sbatch --gres=gpu:1"
    if seen.by_driver <= seen.by_tensorflow:
        return f"the driver ({seen.driver}) sees {seen.by_driver}", "have the scheduler give the job more of them"
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES='{visible}' leaves no more", "unset it, or ask the scheduler for more"
    said = re.findall(r"[^\n]*(?:dlopen|CUDA_ERROR|CUDA error|cuInit|libcud)[^\n]*", seen.chatter)
    more = f" ({said[-1].strip()[:160]})" if said else ""
    what = f"it is built for CUDA {seen.cuda}, and cannot use the driver {seen.driver}{more}"
    return what, "pip install -U 'tensorflow[and-cuda]', or have the driver updated"


def driver_version(root: Path = Path("/")) -> str:
    """The version of the NVIDIA driver that runs; empty if none does."""
    try:
        told = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"NVRM version:.*?(\d+(?:\.\d+)+)", told)
    return found[1] if found else "unknown"
