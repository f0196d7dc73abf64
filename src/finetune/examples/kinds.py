"""The kinds of data that a recipe can name, and which room reads each.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.errors import UserError, shortlist
from finetune.examples.data import Examples
from finetune.examples.folders import class_folders
from finetune.examples.manifest import read_manifest
from finetune.examples.numpy_files import arrays
from finetune.examples.own_code import read_from_code
from finetune.examples.record_index import Keeping
from finetune.examples.text_tables import is_table, read_rows
from finetune.examples.tfds import read_prepared
from finetune.examples.tfrecords import read_records
from finetune.names import did_you_mean
from finetune.recipe import Data
from finetune.remote.fetching import data_at_hand


def read_examples(
    data: Data, fields: Sequence[str], labels: Sequence[str], keeping: Keeping | None = None
) -> tuple[Examples, Examples | None]:
    """(examples, those of `data.eval_path` if there is one), as a recipe's `data` says; both still without targets.

    Args:
      fields: the source's inputs.
      labels: the columns that the heads learn.
      keeping: where what is found in record files is kept for later; nowhere if None.

    Raises:
      UserError: data that cannot be used; the message names key or file.
    """
    examples = read_kind(data, str(data.path), fields, labels, keeping=keeping)
    if not data.eval_path:
        return examples, None
    return examples, read_kind(data, data.eval_path, fields, labels, "data.eval_path", keeping)


def read_kind(
    data: Data,
    path: str,
    fields: Sequence[str],
    labels: Sequence[str],
    key: str = "data.path",
    keeping: Keeping | None = None,
) -> Examples:
    """The examples that lie at a path.

    Raises:
      UserError: they cannot be used.
    """
    others = [name for name in [data.group] if name and name not in labels]
    if data.kind != "tfrecord":  # of which each row is read where it lies
        path = data_at_hand(path, key, with_others=data.kind == "images" and is_table(path))
    if data.kind == "images" and not is_table(path):
        if extra := [label for label in labels if label != data.labels]:
            what = f"'{extra[0]}': folders have one label, which is called '{data.labels}'"
            raise UserError("data", "head.labels", what, "leave it out, or list the images in a .csv file")
        return class_folders(path, data.labels, key, 1 if data.classes or key != "data.path" else 2)
    if data.kind == "images":
        return read_manifest(path, labels, others, key)
    read = [field for field in fields if field not in data.lengths.values()]
    if data.kind == "arrays":
        return arrays(path, read, labels, others, key)
    if strange := [field for field in data.columns if field not in read]:
        guess = did_you_mean(strange[0], read) or f"the inputs are {shortlist(read)}"
        raise UserError("recipe", f"data.columns.{strange[0]}", "the source has no such input", guess)
    named = {field: _listed(data.columns.get(field, ())) for field in read}
    if data.kind == "csv":
        return read_rows(path, named, labels, others, key)
    if data.kind == "tfrecord":
        return read_records(path, named, labels, others, key, keeping)
    if data.kind == "tfds":
        return read_prepared(path, data.args, named, labels, others, key)
    return read_from_code(path, data.args, named, labels, others, key)


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
