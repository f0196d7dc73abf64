"""The machine as far as the engine's speed depends on it, read without TensorFlow."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Machine:
    """`cores` are those that this process may use and TensorFlow counts, hyperthreads included.

    `physical` leaves the hyperthreads out, `quota` is what a container may use of all cores together; None where the
    system does not say. `flags` is a digest of what the processor can do.
    """

    processor: str
    flags: str
    cores: int
    physical: int | None
    quota: float | None
    gpus: tuple[str, ...]

    def threads(self) -> list[int]:
        """Numbers of threads that may be better than TensorFlow's own, which is `cores`.

        >>> Machine("", "", 16, 8, 2.5, ()).threads()
        [8, 3]
        """
        others = [self.physical, None if self.quota is None else math.ceil(self.quota)]
        return list(dict.fromkeys(n for n in others if n is not None and 0 < n < self.cores))

    def record(self) -> dict[str, Any]:
        """What a measurement has to share with this machine to be of use here."""
        return asdict(self)


def this_machine(root: Path = Path("/")) -> Machine:
    """Asks the system, of which `root` is the top folder."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    about = dict(line.split(":", 1) for line in _read(root / "proc/cpuinfo").splitlines() if ":" in line)
    about = {key.strip(): value.strip() for key, value in about.items()}
    able = about.get("flags", about.get("Features", ""))
    return Machine(
        processor=about.get("model name") or platform.processor() or platform.machine(),
        flags=hashlib.sha256(" ".join(sorted(able.split())).encode()).hexdigest()[:16],
        cores=len(allowed),
        physical=_physical(root, allowed),
        quota=_quota(root),
        gpus=_gpus(root),
    )


def _physical(root: Path, allowed: Collection[int]) -> int | None:
    siblings = [_read(root / _CPUS / f"cpu{n}/topology/thread_siblings_list").strip() for n in allowed]
    return len(set(siblings)) if all(siblings) else None


def _quota(root: Path) -> float | None:
    """The cores of a container: cgroups of version 2, or of version 1."""
    limit = _read(root / "sys/fs/cgroup/cpu.max").split()
    if not limit:
        first = root / "sys/fs/cgroup/cpu"
        limit = [*_read(first / "cpu.cfs_quota_us").split(), *_read(first / "cpu.cfs_period_us").split()]
    with suppress(ValueError, ZeroDivisionError):
        if len(limit) == 2 and float(limit[0]) > 0:
            return float(limit[0]) / float(limit[1])
    return None


def _gpus(root: Path) -> tuple[str, ...]:
    """The models of NVIDIA's GPUs that the driver sees and that are not hidden from this process."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ()
    told = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    models = [line for file in told for line in _read(file).splitlines() if line.startswith("Model:")]
    return tuple(model.partition(":")[2].strip() for model in models)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
