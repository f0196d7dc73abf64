"""Images that a table lists: a file and its labels in each line.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.errors import UserError, shortlist
from finetune.examples.columns import as_column, find
from finetune.examples.data import Examples
from finetune.examples.folders import content_hashes
from finetune.examples.text_tables import read_table
from finetune.names import did_you_mean

FILE = "file"  # the column of the files


def read_manifest(path: str, labels: Sequence[str], others: Sequence[str], key: str = "data.path") -> Examples:
    """The images of a CSV or JSONL file; those without an absolute path lie beside it.

    Args:
      labels, others: the columns to keep; `others` may be missing.

    Raises:
      UserError: a column that is missing, a file that is no image; all such files at once.
    """
    files, columns = listed(path, labels, others, key)
    return Examples(files, columns, content_hashes(files))


def listed(path: str, labels: Sequence[str], others: Sequence[str], key: str) -> tuple[list[str], dict]:
    """(files, columns) of a manifest, whether or not the files are images."""
    table = read_table(path, key)
    there = list(table.columns)
    if FILE not in there:
        guess = did_you_mean(FILE, there) or f"there are {shortlist(there)}"
        raise UserError("data", table.path, f"there is no column '{FILE}'", guess)
    found = {label: find(label, there, path) for label in labels} | {name: name for name in others if name in there}
    columns = {column: as_column(table.column(name)) for column, name in found.items()}
    home = Path(table.path).parent
    return [str(home / str(file)) for file in table.column(FILE)], columns
