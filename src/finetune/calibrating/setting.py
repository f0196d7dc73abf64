"""How TensorFlow is set to compute, and how a run came to that setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from finetune.recipe import Recipe

# Read once, when TensorFlow is loaded.
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


@dataclass(frozen=True)
class Setting:
    """What may be set; None is what TensorFlow does by itself on this machine."""

    onednn: bool | None = None
    threads: int | None = None  # within one op, and the number of ops at once
    xla: bool = False  # of the training step

    def environment(self) -> dict[str, str]:
        """What has to be in the environment before TensorFlow is imported.

        >>> Setting(onednn=False, threads=2).environment()
        {'TF_ENABLE_ONEDNN_OPTS': '0', 'TF_NUM_INTRAOP_THREADS': '2', 'TF_NUM_INTEROP_THREADS': '2'}
        """
        onednn = {} if self.onednn is None else {ONEDNN: str(int(self.onednn))}
        return onednn | ({} if self.threads is None else dict.fromkeys(THREADS, str(self.threads)))

    def words(self) -> str:
        """The setting for people.

        >>> Setting(onednn=True, threads=2).words(), Setting().words()
        ('oneDNN on, 2 threads', "TensorFlow's defaults")
        """
        onednn = [] if self.onednn is None else [f"oneDNN {'on' if self.onednn else 'off'}"]
        threads = [] if self.threads is None else ["1 thread" if self.threads == 1 else f"{self.threads} threads"]
        return ", ".join([*onednn, *threads, *["XLA"] * self.xla]) or "TensorFlow's defaults"

    def record(self) -> dict[str, Any]:
        """The setting for a file."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """The setting of a run, and what people are told of how it came about."""

    setting: Setting = Setting()
    said: tuple[str, ...] = ()


BY_ITSELF = Choice()


def as_given(recipe: Recipe) -> Setting:
    """What a recipe says."""
    return Setting(recipe.engine.onednn, recipe.engine.threads, bool(recipe.train.xla))


def from_record(record: Any) -> Setting | None:
    """The setting that a file holds; None where it holds none that makes sense.

    >>> from_record({"onednn": True, "threads": None, "xla": False})
    Setting(onednn=True, threads=None, xla=False)
    >>> from_record({"onednn": "yes"})
    """
    if not isinstance(record, Mapping):
        return None
    held = {field.name: record[field.name] for field in fields(Setting) if field.name in record}
    is_sound = held.get("onednn") in (None, True, False) and isinstance(held.get("xla", False), bool)
    threads = held.get("threads")
    if not held or not is_sound or not (threads is None or (type(threads) is int and threads > 0)):
        return None
    return Setting(**held)
