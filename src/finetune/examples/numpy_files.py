"""Arrays in the files that NumPy writes: a `.npz` file is read, `.npy` files stay where they are.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from io import FileIO
from itertools import pairwise
from pathlib import Path

import numpy as np

from finetune.errors import UserError, shortlist
from finetune.examples.data import Examples, from_arrays
from finetune.examples.fields import Field, Rows
from finetune.names import did_you_mean


def arrays(
    path: str, fields: Sequence[str], labels: Sequence[str], others: Sequence[str] = (), key: str = "data.path"
) -> Examples:
    """Rows of a `.npz` file, of a folder of `.npy` files, or of a `.npy` file with its labels in files beside it.

    There is one array for each input field and for each of the columns `labels`; the columns `others` may be missing.

    Raises:
      UserError: no such file or array, lengths that differ.
    """
    file = Path(os.path.expanduser(path))
    try:
        content: dict[str, Field] = dict(_beside(file) if file.is_dir() or file.suffix == ".npy" else _stored(file))
    except FileNotFoundError:
        raise UserError("data", key, f"there is no file '{file}'", "give a .npz or .npy file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            "data", str(file), f"this is not a .npz file of plain arrays ({error})", "write it with numpy.savez"
        ) from None
    for label in labels:
        if label not in content:
            guess = did_you_mean(label, content) or f"the file has {shortlist(sorted(content))}"
            raise UserError("data", "data.labels", f"{file} has no array '{label}'", guess)
    columns = {name: _whole(content.pop(name)) for name in [*labels, *(name for name in others if name in content)]}
    if len(fields) == 1 and file.suffix == ".npy":
        content = {fields[0]: content[file.stem]}
    elif len(fields) == 1 and len(content) == 1:
        content = {fields[0]: next(iter(content.values()))}
    missing = [f for f in fields if f not in content]
    if missing:
        guess = did_you_mean(missing[0], content) or f"the file has {shortlist(sorted(content))}"
        raise UserError("data", f"source.inputs.{missing[0]}", f"{file} has no array of that name", guess)
    return from_arrays({f: content[f] for f in fields}, columns, str(file))


def _beside(path: Path) -> dict[str, Rows]:
    """The `.npy` files of a folder, or of the folder of a file, by their names."""
    if not path.exists():
        raise FileNotFoundError
    files = sorted((path if path.is_dir() else path.parent).glob("*.npy"))
    if not files:
        raise ValueError("a folder without .npy files")
    return {file.stem: _left_there(file) for file in files}


def _left_there(file: Path) -> Rows:
    """The rows of a file, of which only those that are asked for are read.

    They are read and not mapped, for what is mapped counts as memory of this process.
    """
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if not array.ndim:
        raise ValueError(f"{file.name} holds one value")
    if not array.flags.c_contiguous:  # a row does not lie in one place
        return Rows(len(array), array.dtype, array.shape[1:], lambda index: np.asarray(np.load(file, "r")[index]))
    offset, shape, dtype, size = array.offset, array.shape[1:], array.dtype, array[:1].nbytes

    def read(index: np.ndarray) -> np.ndarray:
        found = np.empty((len(index), *shape), dtype)
        content = found.reshape(-1).view(np.uint8).data
        starts = np.flatnonzero(np.diff(index, prepend=-2) != 1).tolist()  # of rows that lie behind each other
        with file.open("rb", buffering=0) as opened:
            for first, end in pairwise([*starts, len(index)]):
                opened.seek(offset + int(index[first]) * size)
                _fill(content[first * size : end * size], opened)
        return found

    return Rows(len(array), dtype, shape, read)


def _fill(content: memoryview, opened: FileIO) -> None:
    while content:
        count = opened.readinto(content)
        if not count:
            raise ValueError(f"{opened.name} is shorter than it was")
        content = content[count:]


def _whole(held: Field) -> np.ndarray:
    return held if isinstance(held, np.ndarray) else np.asarray(held.read(np.arange(len(held))))


def _stored(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as opened:
        stored = np.load(opened, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise ValueError("it holds a single array without a name")
        content = {name: stored[name] for name in stored.files}
    if strange := [name for name, array in content.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{strange[0]} is no array")
    return content
