"""Everything that is wrong or odd with examples, all of it at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetune.examples import duplicates, folders, manifest
from finetune.examples.compact import Digests
from finetune.examples.data import Examples
from finetune.examples.fields import as_rows, chunks
from finetune.examples.headers import Header, read_header
from finetune.examples.tasks import Task
from finetune.examples.text_tables import is_table
from finetune.recipe import Data

TINY_CLASS = 10  # fewer examples than that are hardly learnt, and the held-out ones say nothing
TINY_SIDE = 16  # pixels
LONG = 4  # times as wide as high, or the other way round: resized, it is not what it was

Decode = Callable[[bytes], str]  # what is wrong with an image; nothing if it can be read


@dataclass(frozen=True)
class Findings:
    """Lines for people: what cannot be trained on, what is odd, and what there is."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """All of them, and how many."""
        counts = f"{_number(self.errors, 'error')}, {_number(self.warnings, 'warning')}"
        return [*self.facts, *(f"warning: {w}" for w in self.warnings), *(f"error: {e}" for e in self.errors), counts]


def list_images(
    path: str, data: Data, labels: Sequence[str], key: str, findings: Findings
) -> tuple[list[str], dict[str, np.ndarray]]:
    """(files, columns) of images in folders or in a manifest, good or not.

    Raises:
      UserError: there is no such folder or file.
    """
    if is_table(path):
        return manifest.listed(path, labels, [data.group] if data.group else [], key)
    root = folders.class_root(path, key)
    files, names, empty = folders.listed(root)
    findings.errors.extend(f"{root / name}: the class folder is empty" for name in empty)
    return files, {data.labels: np.asarray(names, object)}


def look_at_images(
    files: Sequence[str], columns: Mapping[str, np.ndarray], what_is_wrong: Decode, findings: Findings
) -> Examples:
    """The images that can be read.

    Every file is decoded whole: how it begins does not say whether its end is there.
    """
    good, hashes, headers = np.zeros(len(files), bool), [], []
    for place, file in enumerate(files):
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            findings.errors.append(f"{file}: {error.strerror}")
            continue
        header = read_header(content)
        wrong = what_is_wrong(content) if header else "it is not an image" if content else "it is empty"
        if wrong or header is None:
            findings.errors.append(f"{file}: {wrong}")
            continue
        good[place] = True
        hashes.append(hashlib.sha256(content).digest())
        headers.append(header)
        findings.warnings.extend(f"{file}: {odd}" for odd in _odd(header))
    if headers:
        findings.facts.append(f"images: {', '.join(_counted(h.format for h in headers))}; {_sizes(headers)}")
        findings.facts.append(f"colours: {', '.join(_counted(h.mode for h in headers))}")
    chosen = {name: column[good] for name, column in columns.items()}
    return Examples([file for file, ok in zip(files, good, strict=True) if ok], chosen, Digests.of(hashes))


def look_at_rows(examples: Examples, where: str, findings: Findings) -> None:
    """Numbers that are none, field by field."""
    for name, held in (examples.arrays or {}).items():
        rows = as_rows(held)
        findings.facts.append(f"{where}: '{name}' is {_kind(rows.dtype)} {_shape(rows.shape)}")
        if rows.dtype.kind != "f":
            continue
        bad = [start + i for start, part in chunks(held) for i, row in enumerate(part) if not np.isfinite(row).all()]
        if bad:
            first = ", ".join(examples.sources[i] for i in bad[:3])
            findings.errors.append(f"{where}: '{name}' has NaN or Inf in {len(bad)} rows, first {first}")


def look_at_classes(training: Examples, held_out: Examples, tasks: Sequence[Task], findings: Findings) -> None:
    """How many examples each class has, and which are equal."""
    findings.facts.append(f"split: {len(training)} examples to train on, {len(held_out)} held out")
    for task in tasks:
        counts = [_per_class(examples.targets[task.name], task) for examples in (training, held_out)]
        named = f"{task.name}: " if len(tasks) > 1 else ""
        for name, learnt, held in zip(task.classes, *counts, strict=True):
            findings.facts.append(f"  {named}{name}: {learnt} to train on, {held} held out")
            if learnt + held < TINY_CLASS:
                few = _number([name] * (learnt + held), "example") if learnt else "no example to train on"
                findings.warnings.append(f"{named}class {name} has {'only ' if learnt else ''}{few}")
    labels = [task.column for task in tasks]
    findings.warnings.extend(line.removeprefix("warning: ") for line in duplicates.warnings(training, held_out, labels))
    for examples, where in ((training, "training data"), (held_out, "held-out data")):
        if found := duplicates.copies(examples):
            shown = [" = ".join(examples.sources[i] for i in places[:3]) for places in found[: duplicates.SHOWN]]
            count = sum(map(len, found)) - len(found)
            findings.warnings.append(f"{count} examples of the {where} are copies: {', '.join(shown)}")


def _number(items: Sequence[str], name: str) -> str:
    return f"{len(items)} {name}{'' if len(items) == 1 else 's'}"


def _per_class(targets: np.ndarray, task: Task) -> list[int]:
    counts = np.bincount(targets, minlength=task.outputs) if task.is_exclusive else targets.sum(axis=0)
    return [int(count) for count in counts][: len(task.classes)]


def _odd(header: Header) -> list[str]:
    found = []
    if header.bits > 8:
        found.append(f"it has {header.bits} bits a value, of which 8 are read")
    if header.mode not in ("RGB", "grey", "palette"):
        found.append(f"its colours are {header.mode}")
    if min(header.width, header.height) < TINY_SIDE:
        found.append(f"it is only {header.height}×{header.width}")
    elif max(header.width, header.height) > LONG * min(header.width, header.height):
        found.append(f"it is {header.height}×{header.width}, which resizing distorts")
    return found


def _sizes(headers: Sequence[Header]) -> str:
    sizes = sorted({(h.height, h.width) for h in headers}, key=lambda size: size[0] * size[1])
    if len(sizes) == 1:
        return "all {}×{}".format(*sizes[0])
    return "{}×{} to {}×{}".format(*sizes[0], *sizes[-1]) + f", {len(sizes)} sizes"


def _counted(items: Iterable[Hashable]) -> list[str]:
    return [f"{count} {name}" for name, count in Counter(items).most_common()]


def _kind(dtype: np.dtype) -> str:
    return "text" if dtype.kind == "O" else str(dtype)


def _shape(shape: Sequence[int | None]) -> str:
    return "×".join("?" if n is None else str(n) for n in shape) or "a value a row"
