"""Goes back to the last checkpoint after a step that was not finite, and trains on at a lower rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune.learning import monitor
from finetune.learning.state import State
from finetune.learning.train import NonFinite
from finetune.results import checkpoints


def persistent(train: Callable[[int], int], go_back: Callable[[NonFinite], int], start: int) -> int:
    """Trains from a step on, and from where `go_back` says as often as a step is not finite; gives the last step."""
    while True:
        try:
            return train(start)
        except NonFinite as error:
            start = go_back(error)


def roll_back(folder: Path, stem: str, state: State) -> int | None:
    """Takes up the newest checkpoint, at less of the learning rate; gives its step, or None if that was tried enough.

    Nothing is saved: a run that is killed before its next save comes to the same step with the same bits, and goes
    back once more. Every checkpoint is finite, for a state that is not is never saved.
    """
    before = state.watch
    saved = checkpoints.load_newest(folder, stem, state.keys()) if before.rollbacks < monitor.RETRIES else None
    if saved is None:
        return None
    state.restore(saved.values)
    state.conclude(monitor.rolled_back(state.watch, before))
    return saved.step
