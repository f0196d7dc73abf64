"""Where finetune keeps what is made for a user and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def own_place(*names: str) -> Path:
    """A file or folder in `~/.cache/finetune`, or in that of XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "finetune", *names)
