"""Names of what lies elsewhere: a scheme, as in `gs://bucket/folder/file`, and names with slashes between them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from finetune.own_place import own_place

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_remote(path: object) -> bool:
    """Whether a path has a scheme.

    >>> is_remote("gs://bucket/vgg.ckpt"), is_remote("runs/vgg"), is_remote("data.py:rows"), is_remote(None)
    (True, False, False, False)
    """
    return isinstance(path, str) and _SCHEME.match(path) is not None


def scheme_of(url: str) -> str:
    """What stands before `://`."""
    found = _SCHEME.match(url)
    return found[1] if found else ""


def parted(url: str) -> tuple[str, str]:
    """(the folder that something lies in, its name there).

    >>> parted("gs://bucket/pairs/vgg.ckpt"), parted("gs://bucket/pairs/"), parted("gs://bucket")
    (('gs://bucket/pairs', 'vgg.ckpt'), ('gs://bucket', 'pairs'), ('gs://bucket', ''))
    """
    url = url.rstrip("/")
    folder, slash, name = url.rpartition("/")
    return (folder, name) if slash and not folder.endswith("/") else (url, "")


def within(folder: str, *names: str) -> str:
    """What has these names in a folder."""
    return "/".join([folder.rstrip("/"), *names])


def place_here(kind: str, url: str) -> Path:
    """The folder on this machine that stands for one elsewhere: of the same name, in a folder of its own."""
    url = url.rstrip("/")
    return own_place(kind, hashlib.sha256(url.encode()).hexdigest()[:16], parted(url)[1] or "bucket")
