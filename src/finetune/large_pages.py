"""Memory in large pages: TensorFlow takes new memory for every large tensor, and Linux fills that in page by page.

With pages of 2 MB instead of 4 kB that takes a fraction of the time; for a gradient of 400 MB it is most of what the
product takes that computes it. glibc (2.35 and later) asks for them, if it is told to before a process starts:
`glibc.malloc.hugetlb` in its manual. Where Linux gives them to everybody, or to nobody, there is nothing to ask for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_ENABLED = "sys/kernel/mm/transparent_hugepage/enabled"
_TUNABLES, _NAME = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_SINCE = (2, 35)


def restart_with_them() -> None:
    """Begins this process anew, with its number and its words, where it has to be told to ask for large pages."""
    if not (told := to_be_told(os.environ)):
        return
    sys.stdout.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **told})
    except OSError:  # it does without
        return


def to_be_told(environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """What has to be added to the environment; nothing where somebody has decided, or it would be of no use."""
    before = environment.get(_TUNABLES, "")
    if _NAME in before or "[madvise]" not in _enabled(root) or _glibc() < _SINCE:
        return {}
    return {_TUNABLES: ":".join([*filter(None, [before]), f"{_NAME}=1"])}


def are_on(environment: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Whether large tensors get them in a process with this environment."""
    enabled = _enabled(root)
    asked = f"{_NAME}=1" in environment.get(_TUNABLES, "").split(":") and _glibc() >= _SINCE
    return "[always]" in enabled or ("[madvise]" in enabled and asked)


def _enabled(root: Path) -> str:
    try:
        return (root / _ENABLED).read_text(encoding="ascii")
    except OSError:  # not on Linux
        return ""


def _glibc() -> tuple[int, ...]:
    """The version of glibc; nothing where there is another library."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(map(int, version.split("."))) if name == "glibc" else ()
    except (AttributeError, ValueError, OSError):
        return ()
