"""What a disk has at a moment, kept so that it can be laid out again; each content once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

Tree = tuple[tuple[str, str], ...]  # (path, digest of the content; a folder has none)


def keep(there: Mapping[str, Path], pool: Path) -> Tree:
    """A tree of what is at these paths, whose contents go into a folder."""
    return tuple((path, "" if place.is_dir() else _kept(place, pool)) for path, place in there.items())


def lay(tree: Tree, root: Path, pool: Path) -> None:
    """Makes a folder what the tree says, and nothing else."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for path, content in tree:
        if content:
            shutil.copyfile(pool / content, root / path)
        else:
            (root / path).mkdir()


def _kept(place: Path, pool: Path) -> str:
    content = place.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if not (pool / digest).exists():
        pool.mkdir(parents=True, exist_ok=True)
        (pool / digest).write_bytes(content)
    return digest
