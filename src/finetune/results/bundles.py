"""Tensor bundles, the files of a checkpoint: what changes is written, what is frozen is written once and then linked.

A bundle may have several data files, its shards. What is frozen makes up the second. The next checkpoint has the same
file under a name of its own (a hard link): each of them is whole, and can be moved, copied or deleted without the
others.

Format: tensor bundle V2, tensorflow/core/util/tensor_bundle.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.results.manifests import digest_of

_ONLY, SECOND = ".data-00000-of-00001", ".data-00001-of-00002"

Pieces = Mapping[str, tuple[str, str]]


def save_bundle(prefix: Path, tensors: Mapping[str, Any], pieces: Pieces) -> None:
    """Writes the files of a bundle; see `checkpoints.write`."""
    import tensorflow as tf

    keys, slices = zip(*(pieces.get(name, (name, "")) for name in tensors), strict=True)
    values = [tf.convert_to_tensor(tensor) for tensor in tensors.values()]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=keys, shape_and_slices=slices, tensors=values)


class FrozenShard:
    """Tensors that are the same in many checkpoints, and where they were written last.

    `digest` is that of their file, which is read for it when it is written and not with each checkpoint.
    """

    def __init__(self, tensors: Mapping[str, Any]):
        self._tensors = tensors
        self.digest = ""
        self._index = b""
        self._data: tuple[Path, tuple[float, ...]] | None = None

    def add_to(self, prefix: Path) -> None:
        """Makes it the second shard of the bundle that is there."""
        import tensorflow as tf

        first, second = (prefix.with_name(f"{prefix.name}.{part}") for part in ("first", "second"))
        for ending in (".index", _ONLY):
            os.rename(f"{prefix}{ending}", f"{first}{ending}")
        if not self._linked(f"{second}{_ONLY}"):
            save_bundle(second, self._tensors, {})
            self._index = Path(f"{second}.index").read_bytes()
            self.digest = digest_of(Path(f"{second}{_ONLY}"))
        Path(f"{second}.index").write_bytes(self._index)
        # Both data files get other names, a new index takes the place of the two.
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=[str(first), str(second)], destination_prefix=str(prefix), delete_old_dirs=False
        )

    def lies_at(self, prefix: Path) -> None:
        """The bundle that it was added to has come to its place."""
        data = Path(f"{prefix}{SECOND}")
        self._data = data, _identity(data)

    def _linked(self, data: str) -> bool:
        """Makes a link to where it lies; False if it is not there as it was, or the file system has no links."""
        try:
            if self._data is None or _identity(self._data[0]) != self._data[1]:
                return False
            os.link(self._data[0], data)
        except OSError:
            return False
        return True


def _identity(file: Path) -> tuple[float, ...]:
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime
