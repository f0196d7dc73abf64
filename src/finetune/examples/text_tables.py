"""Tables in text files: CSV, TSV, and JSON lines.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError, shortlist
from finetune.examples.columns import as_column, find
from finetune.examples.compact import Digests, Texts
from finetune.examples.data import Examples
from finetune.examples.fields import Rows, as_rows, ragged
from finetune.names import did_you_mean

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Table:
    """Cells by column, and the line of the file that each row ends in; of CSV all cells are text."""

    path: str
    columns: Mapping[str, Sequence[Any]]  # None where a row has no such cell
    lines: Sequence[int]

    def column(self, name: str) -> Sequence[Any]:
        """The cells of a column, of which each row has to have one."""
        cells = self.columns[name]
        for cell, line in zip(cells, self.lines, strict=True):
            if cell is None or cell == "":
                raise UserError(
                    "data", f"{self.path}, line {line}", f"'{name}' is empty", "complete or remove this line"
                )
        return cells


def is_table(path: str) -> bool:
    """Whether a file is a table by its name."""
    return Path(path).suffix.lower() in SUFFIXES


def read_table(path: str, key: str = "data.path") -> Table:
    """The cells of a table with a header line, or of one JSON object a line, by column.

    Raises:
      UserError: no such file, a line that does not fit.
    """
    file = Path(os.path.expanduser(path))
    suffix = file.suffix.lower()
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            if suffix not in DELIMITERS:
                rows = [(number, _object(line, number, file)) for number, line in enumerate(opened, 1) if line.strip()]
            else:
                rows = _rows(csv.reader(opened, delimiter=DELIMITERS[suffix], strict=True), file)
    except FileNotFoundError:
        raise UserError("data", key, f"there is no file '{file}'", f"give a {' or '.join(SUFFIXES)} file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError("data", str(file), f"this is no table in UTF-8 ({error})", "write it as UTF-8 text") from None
    except OSError as error:
        raise UserError("data", str(file), f"it cannot be read ({error.strerror})") from None
    if not rows:
        raise UserError("data", str(file), "there are no rows", "give at least one of each class")
    names = dict.fromkeys(name for _, row in rows for name in row)
    return Table(str(file), {name: [row.get(name) for _, row in rows] for name in names}, [line for line, _ in rows])


def _rows(reader: Any, file: Path) -> list[tuple[int, dict[str, Any]]]:
    names = [name.strip() for name in next(reader, [])]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError("data", str(file), f"two columns are called '{twice[0]}'", "rename one in its first line")
    rows = []
    for cells in reader:
        if cells and len(cells) != len(names):
            what = f"it has {len(cells)} cells, the first line names {len(names)} columns"
            raise UserError("data", f"{file}, line {reader.line_num}", what, "a cell with a comma stands in quotes")
        if cells:
            rows.append((reader.line_num, dict(zip(names, map(str.strip, cells), strict=True))))
    return rows


def _object(line: str, number: int, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise UserError("data", str(file), f"line {number} is no JSON ({error})", "write one object a line") from None
    if not isinstance(found, dict):
        raise UserError("data", str(file), f"line {number} is no JSON object", 'e.g. {"x": [1, 2], "label": "cat"}')
    return found


def read_rows(
    path: str, fields: Mapping[str, Sequence[str]], labels: Sequence[str], others: Sequence[str], key: str
) -> Examples:
    """The rows of a table: columns that fill the inputs, and columns that are labels.

    Several columns of numbers stand beside each other in one input; one column is its value, or a list of numbers
    (`3 17 4` in CSV), which may be of another length in each row. A lone input takes all columns that are left.

    Args:
      fields: input -> its columns; none: the column of its name.
      labels, others: the columns to keep; `others` may be missing.

    Raises:
      UserError: a column that is missing, a cell that is no number among numbers.
    """
    table = read_table(path, key)
    there = list(table.columns)
    columns = {label: as_column(table.column(find(label, there, path))) for label in labels}
    columns |= {name: as_column(table.column(name)) for name in others if name in there}
    left = [name for name in there if name not in {*others, *(find(label, there, path) for label in labels)}]
    chosen = {
        field: names or (left if len(fields) == 1 and field not in left else [field]) for field, names in fields.items()
    }
    for field, names in chosen.items():
        if strange := [name for name in names if name not in there]:
            guess = did_you_mean(strange[0], there) or f"there are {shortlist(there)}"
            todo = f"{guess}; data.columns={{{field}: [NAME, …]}} says which columns fill an input"
            raise UserError("data", f"source.inputs.{field}", f"{path} has no column '{strange[0]}'", todo)
    cells = {name: _values(table, name) for names in chosen.values() for name in names}
    hashes = Digests.of(
        hashlib.sha256(repr([values[row] for values in cells.values()]).encode()).digest()
        for row in range(len(table.lines))
    )
    rows = {field: _joined(table, names, cells) for field, names in chosen.items()}
    return Examples(Texts(np.asarray(table.lines), "line {}".format), columns, hashes, rows)


def _values(table: Table, name: str) -> list[Any]:
    """The values of a column: numbers, lists of numbers or text, as the first cell has it."""
    cells = table.column(name)
    parsed = [_numbers(cell) for cell in cells]
    if parsed[0] is None:
        return list(map(str, cells))
    if None in parsed:
        row = parsed.index(None)
        what = f"'{name}' is {str(cells[row])[:40]!r}, in line {table.lines[0]} it is a number"
        raise UserError(
            "data", f"{table.path}, line {table.lines[row]}", what, "write numbers, or leave the column out"
        )
    if any(isinstance(cell, list) for cell in parsed):
        return [cell if isinstance(cell, list) else [cell] for cell in parsed]
    return parsed


def _numbers(cell: Any) -> Any:
    """The number, or the list of numbers, that a cell is; None for text."""
    if isinstance(cell, (bool, int, float)):
        return cell
    if isinstance(cell, list):
        return None if any(_numbers(part) is None for part in cell) else cell
    parts = [_number(part) for part in str(cell).split()]
    return None if None in parts or not parts else parts if len(parts) > 1 else parts[0]


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _joined(table: Table, names: Sequence[str], cells: Mapping[str, Sequence[Any]]) -> Rows:
    """The values of one input."""
    if len(names) == 1 and isinstance(cells[names[0]][0], list):
        values = cells[names[0]]
        whole = all(isinstance(part, int) for row in values for part in np.asarray(row, object).ravel())
        return replace(ragged(values, np.dtype(np.int64 if whole else np.float64)), flat=True)
    for name in names:
        if len(names) > 1 and isinstance(cells[name][0], list):
            raise UserError("data", table.path, f"'{name}' has lists, which fill an input alone", "use it alone")
    kinds = {name: isinstance(cells[name][0], str) for name in names}
    if len(set(kinds.values())) > 1:
        text, number = (next(name for name in names if kinds[name] is kind) for kind in (True, False))
        what = f"'{text}' is text and '{number}' numbers"
        todo = "data.columns says which columns fill an input"
        raise UserError("data", table.path, f"{what}, and one input cannot take both", todo)
    array = np.asarray([cells[name] for name in names], object if any(kinds.values()) else None).T
    return replace(as_rows(array), flat=True)
