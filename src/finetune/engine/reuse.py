"""A head that starts with what the source's old head knows of the classes that both have by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.errors import UserError, shortlist
from finetune.examples.tasks import Task
from finetune.names import did_you_mean
from finetune.reading.weights import read_index, read_tensors
from finetune.recipe import Head, Reuse
from finetune.remote.fetching import data_at_hand
from finetune.surgery.source import Source


def with_old_rows(
    fresh: Mapping[str, np.ndarray], tasks: Sequence[Task], heads: Mapping[str, Head], source: Source
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The first values of all heads, those that ask for it with rows of an old one, and a line for each of these."""
    values, lines = dict(fresh), []
    for task in tasks:
        if heads[task.name].reuse.kernel is not None:
            values, line = reused(values, task, heads[task.name].reuse, source.pair.prefix, f"{task.name}.reuse")
            lines.append(line)
    return values, lines


def reused(
    fresh: Mapping[str, np.ndarray], task: Task, reuse: Reuse, prefix: str, key: str = "head.reuse"
) -> tuple[dict[str, np.ndarray], str]:
    """The first values of a head's variables with the old rows in them, and a line that says of which classes.

    Args:
      fresh: the variables of all heads, by full name.
      prefix: of the source's checkpoint.

    Raises:
      UserError: the checkpoint has no such tensor, or one of another width; its columns are not as many as the names;
        no class has an old name.
    """
    kernel, bias = f"{task.name}/kernel", f"{task.name}/bias"
    wanted = [name for name in (reuse.kernel, reuse.bias) if name is not None]
    index = read_index(prefix)
    if missing := [name for name in wanted if name not in index]:
        guess = did_you_mean(missing[0], index)
        raise UserError("recipe", key, f"the checkpoint has no tensor '{missing[0]}'", guess)
    stored = read_tensors(prefix, wanted)
    columns = stored[wanted[0]].reshape(-1, stored[wanted[0]].shape[-1])
    if len(columns) != len(fresh[kernel]):
        what = f"'{reuse.kernel}' reads {len(columns)} features, the new head {len(fresh[kernel])}"
        raise UserError("recipe", f"{key}.kernel", what, "it has to be the layer that reads the cut")
    old = _names(reuse.labels, key)
    if len(old) != columns.shape[1]:
        what = f"{len(old)} names for the {columns.shape[1]} classes of '{reuse.kernel}'"
        raise UserError("recipe", f"{key}.labels", what, "name each old class, in its order")
    both = [name for name in task.classes if name in old]
    if not both:
        what = f"none of the classes {shortlist(list(task.classes))} is an old one"
        raise UserError("recipe", f"{key}.labels", what, did_you_mean(task.classes[0], old) or "leave head.reuse out")
    here, there = [task.classes.index(name) for name in both], [old.index(name) for name in both]
    found = {name: value.copy() for name, value in fresh.items()}
    found[kernel][:, here] = columns[:, there]
    if reuse.bias is not None:
        found[bias][here] = stored[reuse.bias].ravel()[there]
    return found, f"reuse: {shortlist(both)} start from {' and '.join(wanted)}"


def _names(labels: str | Sequence[str], key: str) -> list[str]:
    if not isinstance(labels, str):
        return [str(name) for name in labels]
    try:
        text = Path(data_at_hand(labels, key)).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot read '{labels}' ({getattr(error, 'strerror', None) or 'not text'})"
        raise UserError("recipe", f"{key}.labels", what, "give a file with one class a line") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
