"""Examples: which there are, and which of them are held out.

Nothing here imports TensorFlow, so that wrong data is refused at once.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """A list of examples with labels.

    `sources` are file names for images and row numbers for arrays; `hashes` are SHA-256 digests of the contents.
    `arrays` holds the rows themselves, by field, where there are no files.
    """

    sources: Sequence[str]
    labels: np.ndarray  # int64 [examples]
    classes: Sequence[str]
    hashes: Sequence[str]
    arrays: Mapping[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: np.ndarray) -> Examples:
        """The examples for which `chosen` (bool [examples]) holds, in their order."""
        return Examples(
            list(compress(self.sources, chosen)),
            self.labels[chosen],
            self.classes,
            list(compress(self.hashes, chosen)),
            None if self.arrays is None else {name: rows[chosen] for name, rows in self.arrays.items()},
        )

    @property
    def majority(self) -> float:
        """The share of the most frequent class: the accuracy of always guessing it."""
        return float(np.bincount(self.labels).max() / len(self)) if len(self) else 0.0

    def digest(self) -> str:
        """SHA-256 over every example's content and label, in order."""
        sha = hashlib.sha256()
        for content, label in zip(self.hashes, self.labels, strict=True):
            sha.update(f"{content} {label}\n".encode())
        return sha.hexdigest()


def class_folders(path: str, key: str = "data.path", classes: Sequence[str] | None = None) -> Examples:
    """Images in one folder per class; labels are the folders' names in alphabetical order.

    Args:
      classes: the names to use, where another set has settled them.

    Raises:
      UserError: no such folder, an empty class, a file that is no image; all offenders at once.
    """
    root = Path(os.path.expanduser(path))
    if not root.is_dir():
        raise UserError("data", key, f"there is no folder '{root}'", "give a folder with one folder per class")
    folders = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    if len(folders) < (2 if classes is None else 1):
        what = f"'{root}' has {len(folders)} class folder{'s' if len(folders) != 1 else ''}"
        raise UserError("data", key, what, "put the images of each class into a folder of its own")
    names = list(classes) if classes is not None else [d.name for d in folders]
    strange = [d.name for d in folders if d.name not in names]
    if strange:
        guess = did_you_mean(strange[0], names) or f"the classes are {shortlist(names)}"
        raise UserError("data", key, f"'{root}' has a class that training has not: {strange[0]}", guess)
    files: list[str] = []
    labels: list[int] = []
    for folder in folders:
        images = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and not _is_hidden(f, folder))
        images = [f for f in images if not f.is_dir()]
        if not images:
            raise UserError(
                "data", str(folder), "the class folder is empty", f"add {'/'.join(SUFFIXES)} files, or remove it"
            )
        files += [str(f) for f in images]
        labels += [names.index(folder.name)] * len(images)
    return Examples(files, np.asarray(labels, np.int64), names, _content_hashes(files))


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


def arrays(path: str, fields: Sequence[str], label: str, classes: int | None, key: str = "data.path") -> Examples:
    """Rows of a `.npz` file: one array per input field, and one of integer labels.

    Raises:
      UserError: no such file or array, lengths that differ, labels out of range.
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
    if label not in content:
        guess = did_you_mean(label, content) or f"the file has {shortlist(sorted(content))}"
        raise UserError("data", "data.labels", f"{file} has no array '{label}'", guess)
    labels = content.pop(label)
    if len(fields) == 1 and len(content) == 1:
        content = {fields[0]: next(iter(content.values()))}
    missing = [f for f in fields if f not in content]
    if missing:
        guess = did_you_mean(missing[0], content) or f"the file has {shortlist(sorted(content))}"
        raise UserError("data", f"source.inputs.{missing[0]}", f"{file} has no array of that name", guess)
    rows = {f: content[f] for f in fields}
    return from_arrays(rows, labels, classes, str(file))


def _stored(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as opened:
        stored = np.load(opened, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise ValueError("it holds a single array without a name")
        content = {name: stored[name] for name in stored.files}
    if strange := [name for name, array in content.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{strange[0]} is no array")
    return content


def from_arrays(rows: Mapping[str, np.ndarray], labels: np.ndarray, classes: int | None, where: str) -> Examples:
    """Examples whose inputs and labels are arrays already."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(
            "data", "data.labels", f"labels are {labels.dtype} {list(labels.shape)}", "give one integer per row"
        )
    for name, array in rows.items():
        if array.ndim == 0 or len(array) != len(labels):
            what = f"'{name}' has {len(array) if array.ndim else 'no'} rows, the labels have {len(labels)}"
            raise UserError("data", where, what, "give both the same length")
    if not len(labels):
        raise UserError("data", where, "there are no rows", "give at least one of each class")
    if classes is None and labels.max() >= len(labels):
        row = int(labels.argmax())
        what = f"label {labels[row]} in row {row} makes more classes than there are rows"
        raise UserError("data", where, what, "number the classes from 0, or give head.classes")
    count = classes if classes is not None else max(2, int(labels.max()) + 1)
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if wrong.size:
        what = f"label {labels[wrong[0]]} in row {wrong[0]} is not within 0..{count - 1} ({wrong.size} such rows)"
        raise UserError("data", where, what, f"head.classes is {count}")
    names = [str(i) for i in range(count)]
    hashes = [_row_hash([array[i] for array in rows.values()]) for i in range(len(labels))]
    return Examples([str(i) for i in range(len(labels))], labels.astype(np.int64), names, hashes, dict(rows))


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
    if share > 0:
        for label in np.unique(examples.labels):
            own = examples.labels == label
            if place[own].min() == place[own].max():
                continue
            if not held[own].any():
                held |= place == place[own].min()
            elif held[own].all():
                held &= place != place[own].max()
    return examples.where(~held), examples.where(held)


def check_classes(examples: Examples, wanted: int | None) -> int:
    """The number of classes, if recipe and data agree on it.

    Raises:
      UserError: with both numbers.
    """
    there = len(examples.classes)
    if wanted is not None and wanted != there and examples.arrays is None:
        what = f"the recipe says {wanted}, the data has {there}: {shortlist(list(examples.classes))}"
        raise UserError("recipe", "head.classes", what, f"set head.classes={there} or leave it out")
    return wanted or there


def read_examples(data: Data, fields: Sequence[str], classes: int | None) -> tuple[Examples, Examples]:
    """(to train on, to evaluate on), as a recipe's `data` says.

    Raises:
      UserError: data that cannot be used; the message names key or file.
    """
    path, eval_path = str(data.path), data.eval_path
    if data.kind == "images":
        examples = class_folders(path)
        apart = class_folders(eval_path, "data.eval_path", examples.classes) if eval_path else None
    else:
        examples = arrays(path, fields, data.labels, classes)
        count = len(examples.classes)
        apart = arrays(eval_path, fields, data.labels, count, "data.eval_path") if eval_path else None
    return (examples, apart) if apart is not None else hold_out(examples, data.holdout)
