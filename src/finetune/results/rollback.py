"""Trains on from a checkpoint after a step that was not finite."""

from __future__ import annotations

from collections.abc import Callable

from finetune.learning.train import NonFinite


def persistent(train: Callable[[int], int], go_back: Callable[[NonFinite], int], start: int) -> int:
    """Trains from a step on, and from where `go_back` says as often as a step is not finite; gives the last step."""
    while True:
        try:
            return train(start)
        except NonFinite as error:
            start = go_back(error)
