"""Starts TensorFlow: quietly, with the device that it will use said in one line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from finetune.calibrating.machine import this_machine
from finetune.calibrating.setting import BY_ITSELF, Choice
from finetune.devices import Seen, check_gpus, driver_version


@dataclass(frozen=True)
class Started:
    """What TensorFlow runs on, and what its C++ half had to say while it started."""

    device: str
    chatter: str
    engine: Choice

    def record(self) -> dict[str, Any]:
        """The engine as it is, for a run that goes on elsewhere: there TensorFlow's own default may be another."""
        return replace(self.engine.setting, onednn=onednn_is_on()).record()


def start_tensorflow(engine: Choice = BY_ITSELF, wakes: bool = True, gpus: int | None = None) -> Started:
    """Imports TensorFlow, set as chosen, and wakes its devices, unless others are to be joined before that.

    With a number of `gpus` it takes no more than these.

    Its C++ half writes to file descriptor 2 before any log level counts, five lines and more on a machine without a
    GPU, in which our own error would drown. They are kept for the log.

    Raises:
      UserError: there are fewer GPUs than asked for.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.update(engine.setting.environment())
    with without_chatter() as chatter:
        import tensorflow as tf

        there = tf.config.list_physical_devices("GPU")
        if gpus is not None:
            tf.config.set_visible_devices(there[:gpus], "GPU")
        used = there[:gpus]
        for gpu in used:
            # On a shared node one process must not take the whole card.
            tf.config.experimental.set_memory_growth(gpu, True)
        if wakes:
            tf.zeros([])
    tf.get_logger().propagate = False  # or every line of it appears twice under a logging root
    said = "".join(chatter)
    if gpus:
        built = str(tf.sysconfig.get_build_info().get("cuda_version", ""))
        seen = Seen(len(there), len(this_machine().gpus), driver_version(), built, said)
        check_gpus(gpus, seen, os.environ)
    names = [tf.config.experimental.get_device_details(g).get("device_name", g.name) for g in used]
    none = "no GPU is visible to TensorFlow" if gpus is None else "engine.gpus=0"
    device = f"{len(used)} × {names[0]}" if used else f"cpu, {os.cpu_count()} cores ({none})"
    return Started(device, said, engine)


def onednn_is_on() -> bool:
    """Whether the TensorFlow of this process takes oneDNN's kernels."""
    from tensorflow.python.util import _pywrap_util_port  # pyright: ignore[reportMissingImports]  # compiled

    return bool(_pywrap_util_port.IsMklEnabled())


@contextmanager
def without_chatter() -> Iterator[list[str]]:
    """Collects what is written to file descriptor 2, by anyone in this process."""
    collected: list[str] = []
    with tempfile.TemporaryFile() as aside:
        kept = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield collected
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            collected.append(aside.read().decode(errors="replace"))
