"""Data sets of the package tensorflow-datasets that lie on this machine or that it knows where to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import UserError
from finetune.examples.data import Examples
from finetune.examples.elements import from_elements
from finetune.names import did_you_mean


def read_prepared(
    path: str,
    args: Mapping[str, Any],
    fields: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    others: Sequence[str],
    key: str = "data.path",
) -> Examples:
    """A split of a data set, `NAME:SPLIT` or `NAME` for its training split, read by number.

    Args:
      args: further arguments of `tfds.data_source`, such as `data_dir`.

    Raises:
      UserError: the package or the data set is missing.
    """
    try:
        import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]
    except ImportError:
        what = "tensorflow-datasets is not installed"
        raise UserError("data", "data.kind", what, "pip install 'finetune[tfds]'") from None
    name, _, split = path.partition(":")
    where = {key: value for key, value in args.items() if key == "data_dir"}
    try:
        features = tfds.builder(name, **where).info.features
        # Images stay encoded until a batch needs them, as those of files and records do.
        packed = {n: tfds.decode.SkipDecoding() for n, f in features.items() if isinstance(f, tfds.features.Image)}
        elements = tfds.data_source(name, split=split or "train", decoders=packed, **args)
    except tfds.core.registered.DatasetNotFoundError:
        guess = did_you_mean(name.partition("/")[0], tfds.list_builders()) or "see tfds.list_builders()"
        raise UserError("data", key, f"there is no data set '{name}'", guess) from None
    except Exception as error:
        text = " ".join(str(error).split())
        raise UserError("data", key, f"{path}: {type(error).__name__}: {text}"[:400]) from error
    return from_elements(elements, fields, labels, others, path)
