"""Images in one folder for each class.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.errors import UserError
from finetune.examples.compact import Digests
from finetune.examples.data import Examples

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")


def class_folders(path: str, label: str, key: str = "data.path", least: int = 2) -> Examples:
    """Images in one folder per class; the column `label` has the folders' names.

    Args:
      least: how many folders there have to be.

    Raises:
      UserError: no such folder, an empty class, a file that is no image; all offenders at once.
    """
    root = class_root(path, key)
    folders = class_names(root)
    if len(folders) < least:
        what = f"'{root}' has {len(folders)} class folder{'s' if len(folders) != 1 else ''}"
        raise UserError("data", key, what, "put the images of each class into a folder of its own")
    files, labels, empty = listed(root)
    if empty:
        todo = f"add {'/'.join(SUFFIXES)} files, or remove it"
        raise UserError("data", str(root / empty[0]), "the class folder is empty", todo)
    return Examples(files, {label: np.asarray(labels, object)}, content_hashes(files))


def class_root(path: str, key: str) -> Path:
    """The folder of the class folders.

    Raises:
      UserError: there is none.
    """
    root = Path(os.path.expanduser(path))
    if not root.is_dir():
        raise UserError("data", key, f"there is no folder '{root}'", "give a folder with one folder per class")
    return root


def listed(root: Path) -> tuple[list[str], list[str], list[str]]:
    """(files, the class of each, classes without a file), whether or not the files are images."""
    files: list[str] = []
    labels: list[str] = []
    empty = []
    for folder in class_names(root):
        images = sorted(f for f in (root / folder).rglob("*") if f.suffix.lower() in SUFFIXES)
        images = [f for f in images if not _is_hidden(f, root / folder) and not f.is_dir()]
        empty += [] if images else [folder]
        files += [str(f) for f in images]
        labels += [folder] * len(images)
    return files, labels, empty


def class_names(root: Path) -> list[str]:
    """The names of the class folders, in alphabetical order."""
    return sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file, or a folder that it lies in, is one that programs leave behind, as `.ipynb_checkpoints` is."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def content_hashes(files: Sequence[str]) -> Digests:
    """The digest of each file's content.

    Raises:
      UserError: a file that is no image; all such files at once.
    """
    hashes, bad = [], []
    for file in files:
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            bad.append(f"{file} ({error.strerror})")
            continue
        if not content.startswith(_SIGNATURES):
            bad.append(f"{file} ({'empty' if not content else 'not an image'})")
        hashes.append(hashlib.sha256(content).digest())
    refuse_unreadable(bad)
    return Digests.of(hashes)


def refuse_unreadable(bad: Sequence[str]) -> None:
    """Raises an error that names the files, if there are any."""
    if bad:
        rest = [f"and {bad[i]}" for i in range(1, min(len(bad), 4))]
        count = f" ({len(bad)} such files)" if len(bad) > 1 else ""
        raise UserError("data", bad[0], f"this image cannot be read{count}", "replace or remove it", *rest)
