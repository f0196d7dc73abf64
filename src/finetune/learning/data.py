"""Examples: which there are, and which of them are held out.

Nothing here imports TensorFlow, so that wrong data is refused at once.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np

from finetune.errors import UserError, shortlist
from finetune.names import did_you_mean
from finetune.recipe import Data

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")


@dataclass(frozen=True)
class Examples:
    """A list of examples and what is known of each.

    `sources` are file names for images and row numbers for arrays; `hashes` are SHA-256 digests of the contents.
    `columns` hold what is known of them, by name: numbers or text, a row for each example. `arrays` holds the inputs
    themselves, by field, where there are no files. `targets` are what the heads learn, by head; they are made of the
    columns (finetune.learning.tasks).
    """

    sources: Sequence[str]
    columns: Mapping[str, np.ndarray]
    hashes: Sequence[str]
    arrays: Mapping[str, np.ndarray] | None = None
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sources)

    def where(self, chosen: np.ndarray) -> Examples:
        """The examples for which `chosen` (bool [examples]) holds, in their order."""
        return replace(
            self,
            sources=list(compress(self.sources, chosen)),
            columns={name: column[chosen] for name, column in self.columns.items()},
            hashes=list(compress(self.hashes, chosen)),
            arrays=None if self.arrays is None else {name: rows[chosen] for name, rows in self.arrays.items()},
            targets={head: rows[chosen] for head, rows in self.targets.items()},
        )

    def digest(self) -> str:
        """SHA-256 over every example's content and targets, in order."""
        sha = hashlib.sha256()
        for i, content in enumerate(self.hashes):
            sha.update(f"{content} {' '.join(str(rows[i].tolist()) for rows in self.targets.values())}\n".encode())
        return sha.hexdigest()


def class_folders(path: str, label: str, key: str = "data.path", least: int = 2) -> Examples:
    """Images in one folder per class; the column `label` has the folders' names.

    Args:
      least: how many folders there have to be.

    Raises:
      UserError: no such folder, an empty class, a file that is no image; all offenders at once.
    """
    root = Path(os.path.expanduser(path))
    if not root.is_dir():
        raise UserError("data", key, f"there is no folder '{root}'", "give a folder with one folder per class")
    folders = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    if len(folders) < least:
        what = f"'{root}' has {len(folders)} class folder{'s' if len(folders) != 1 else ''}"
        raise UserError("data", key, what, "put the images of each class into a folder of its own")
    files: list[str] = []
    labels: list[str] = []
    for folder in folders:
        images = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and not _is_hidden(f, folder))
        images = [f for f in images if not f.is_dir()]
        if not images:
            raise UserError(
                "data", str(folder), "the class folder is empty", f"add {'/'.join(SUFFIXES)} files, or remove it"
            )
        files += [str(f) for f in images]
        labels += [folder.name] * len(images)
    return Examples(files, {label: np.asarray(labels, object)}, _content_hashes(files))


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file, or a folder that it lies in, is one that programs leave behind, as `.ipynb_checkpoints` is."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _content_hashes(files: Sequence[str]) -> list[str]:
    hashes, bad = [], []
    for file in files:
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            bad.append(f"{file} ({error.strerror})")
            continue
        if not content.startswith(_SIGNATURES):
            bad.append(f"{file} ({'empty' if not content else 'not an image'})")
        hashes.append(hashlib.sha256(content).hexdigest())
    refuse_unreadable(bad)
    return hashes


def refuse_unreadable(bad: Sequence[str]) -> None:
    """Raises an error that names the files, if there are any."""
    if bad:
        rest = [f"and {bad[i]}" for i in range(1, min(len(bad), 4))]
        count = f" ({len(bad)} such files)" if len(bad) > 1 else ""
        raise UserError("data", bad[0], f"this image cannot be read{count}", "replace or remove it", *rest)


def arrays(path: str, fields: Sequence[str], labels: Sequence[str], key: str = "data.path") -> Examples:
    """Rows of a `.npz` file: one array for each input field, and the columns `labels`.

    Raises:
      UserError: no such file or array, lengths that differ.
    """
    file = Path(os.path.expanduser(path))
    try:
        content = _stored(file)
    except FileNotFoundError:
        raise UserError("data", key, f"there is no file '{file}'", "give a .npz file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            "data", str(file), f"this is not a .npz file of plain arrays ({error})", "write it with numpy.savez"
        ) from None
    for label in labels:
        if label not in content:
            guess = did_you_mean(label, content) or f"the file has {shortlist(sorted(content))}"
            raise UserError("data", "data.labels", f"{file} has no array '{label}'", guess)
    columns = {label: content.pop(label) for label in labels}
    if len(fields) == 1 and len(content) == 1:
        content = {fields[0]: next(iter(content.values()))}
    missing = [f for f in fields if f not in content]
    if missing:
        guess = did_you_mean(missing[0], content) or f"the file has {shortlist(sorted(content))}"
        raise UserError("data", f"source.inputs.{missing[0]}", f"{file} has no array of that name", guess)
    return from_arrays({f: content[f] for f in fields}, columns, str(file))


def _stored(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as opened:
        stored = np.load(opened, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise ValueError("it holds a single array without a name")
        content = {name: stored[name] for name in stored.files}
    if strange := [name for name, array in content.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{strange[0]} is no array")
    return content


def from_arrays(rows: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray], where: str) -> Examples:
    """Examples whose inputs are arrays already."""
    (first, labels), *_ = columns.items()
    for name, array in {**rows, **columns}.items():
        if array.ndim == 0 or len(array) != len(labels):
            what = f"'{name}' has {len(array) if array.ndim else 'no'} rows, '{first}' has {len(labels)}"
            raise UserError("data", where, what, "give all the same length")
    if not len(labels):
        raise UserError("data", where, "there are no rows", "give at least one of each class")
    hashes = [_row_hash([array[i] for array in rows.values()]) for i in range(len(labels))]
    return Examples([str(i) for i in range(len(labels))], columns, hashes, dict(rows))


def _row_hash(values: Sequence[np.ndarray]) -> str:
    sha = hashlib.sha256()
    for value in values:
        sha.update(repr(value).encode() if np.asarray(value).dtype == object else np.ascontiguousarray(value).tobytes())
    return sha.hexdigest()


def hold_out(examples: Examples, share: float) -> tuple[Examples, Examples]:
    """(to train on, to evaluate on), chosen by each example's content.

    An example stays on its side when others come or go, and equal ones are always on the same side. A class that
    chance leaves without an example on one side gives the one nearest to the border, if it has two that differ.
    """
    place = np.array([int(h[:13], 16) / 16**13 for h in examples.hashes])
    held = place < share
    for labels in [t for t in examples.targets.values() if t.dtype.kind == "i" and share > 0]:
        for label in np.unique(labels):
            own = labels == label
            if place[own].min() == place[own].max():
                continue
            if not held[own].any():
                held |= place == place[own].min()
            elif held[own].all():
                held &= place != place[own].max()
    return examples.where(~held), examples.where(held)


def read_examples(data: Data, fields: Sequence[str], labels: Sequence[str]) -> tuple[Examples, Examples | None]:
    """(examples, those of `data.eval_path` if there is one), as a recipe's `data` says; both still without targets.

    Args:
      fields: the source's inputs.
      labels: the columns that the heads learn.

    Raises:
      UserError: data that cannot be used; the message names key or file.
    """
    path, eval_path = str(data.path), data.eval_path
    if data.kind == "images":
        if extra := [label for label in labels if label != data.labels]:
            what = f"'{extra[0]}': folders have one label, which is called '{data.labels}'"
            raise UserError("data", "head.labels", what, "leave it out, or use data.kind=arrays")
        examples = class_folders(path, data.labels)
        apart = class_folders(eval_path, data.labels, "data.eval_path", 1) if eval_path else None
    else:
        examples = arrays(path, fields, labels)
        apart = arrays(eval_path, fields, labels, "data.eval_path") if eval_path else None
    return examples, apart
