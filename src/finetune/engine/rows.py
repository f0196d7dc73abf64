"""Whether a source whose sizes were rewritten can be run, and still computes the same for each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.engine.compile import as_function, features_program
from finetune.errors import UserError
from finetune.surgery.backbone import Backbone, make_backbone, mode_feeds
from finetune.surgery.source import Source

CHUNKS = 4  # of the old batch size are compared, no more
# Of the largest feature. Kernels sum in another order for another number of rows; a mistake is larger by far.
TOLERANCE = 1e-4


def check_sizes(
    source: Source, backbone: Backbone, feeds: Mapping[str, Any], arguments: Mapping[str, Any]
) -> list[str]:
    """Runs a source with the sizes that it was rewritten for; gives what was found, for people.

    Where the batch size was rewritten, features are compared with those of the source as it was, chunk by chunk.

    Args:
      backbone: of the rewritten source, for evaluation.
      arguments: variables, and inputs for as many examples as the recipe wants at once.

    Raises:
      UserError: the graph cannot be run, or its features differ: the recipe has to take the old size.
    """
    inputs = {name: np.asarray(value) for name, value in arguments.items() if name.startswith("input/")}
    wanted = len(next(iter(inputs.values())))

    def features(of: Backbone, rows: np.ndarray) -> np.ndarray:
        taken = {name: tf.constant(array[rows]) for name, array in inputs.items()}
        return as_function(features_program(of))({**arguments, **taken})["features"].numpy()

    try:
        new = features(backbone, np.arange(wanted))
    except UserError as error:
        raise _refused(source, wanted, f"{error.what}; {error.todo}") from error
    if new.shape[:1] != (wanted,):
        raise _refused(source, wanted, f"it gives {len(new) if new.ndim else 'no'} rows for {wanted} examples")
    said = []
    if source.image_size is not None:
        sizes = ["×".join(map(str, size)) for size in (_image_size(source), source.image_size)]
        said.append(f"image size: {sizes[0]} instead of the source's {sizes[1]}")
    if (fixed := source.fixed) is not None:
        size = fixed.batch_size or 1
        fed = mode_feeds(feeds, "eval")
        old = make_backbone(fixed.whole, fixed.cuts, fixed.inputs, fed, tables=fixed.tables)
        compared = min(wanted, CHUNKS * size)
        for start in range(0, compared, size):
            rows = np.minimum(np.arange(start, start + size), wanted - 1)  # the last chunk is filled up
            before = features(old, rows)[: compared - start]
            difference = _largest_difference(before, new[start : start + len(before)])
            if not difference <= TOLERANCE * np.abs(before).max(initial=1e-30):
                raise _refused(source, wanted, f"otherwise its features differ by {difference:.2g}")
        said.append(f"batch size: {wanted} instead of the source's {size}; features of {compared} examples agree")
    return said


def _largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max(initial=0)) if one.shape == other.shape else float("inf")


def _image_size(source: Source) -> tuple[int | None, ...]:
    ((_, shape),) = source.input_kinds().values()
    return shape[1:3] if shape else ()


def _refused(source: Source, wanted: int, why: str) -> UserError:
    if source.image_size is not None:
        sizes = ["×".join(map(str, size)) for size in (_image_size(source), source.image_size)]
        what = f"{sizes[0]}, but up to its cut the source takes {sizes[1]}: {why}"
        return UserError("source", "data.image_size", what, "leave it out, or cut before the image is flattened")
    size = source.fixed.batch_size if source.fixed else None
    what = f"{wanted}, but the source takes exactly {size} examples at once: {why}"
    return UserError("source", "train.batch_size", what, f"set train.batch_size={size}")
