"""Goes back to the last checkpoint after a step that was not finite."""

from __future__ import annotations

from pathlib import Path

from finetune.learning import monitor
from finetune.learning.state import State
from finetune.results import checkpoints


def roll_back(folder: Path, stem: str, state: State) -> int | None:
    """Takes up the newest checkpoint, at less of the learning rate; gives its step, or None if that was tried enough.

    Nothing is saved: a run that is killed before its next save comes to the same step with the same bits, and goes
    back once more. Every checkpoint is finite, for a state that is not is never saved.
    """
    before = monitor.from_numbers(state.watched)
    saved = checkpoints.load_newest(folder, stem, state.keys()) if before.rollbacks < monitor.RETRIES else None
    if saved is None:
        return None
    state.restore(saved.values)
    state.watched[:] = monitor.rolled_back(monitor.from_numbers(state.watched), before).numbers()
    return saved.step
