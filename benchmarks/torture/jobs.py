"""What is tortured: a run of finetune that has everything at once, and one of plain TensorFlow beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EVERYTHING = """
defaults: [vgg_2class]
stop_gradient: false
source: {{feeds: {{keep_prob: {{train: 0.5, eval: 1.0}}}}}}
data: {{augment: {{preset: light}}}}
phases:
  - {{name: head, until: {{step: {turn}}}, stop_gradient: true}}
  - {{name: all, optimizer: sgd, optimizer_args: {{momentum: 0.9}}, learning_rate: 0.001}}
train: {{steps: {last}, batch_size: 8, accumulate: 2, ema: 0.9, log_every_steps: 1}}
eval: {{every_steps: {evaluated}, probe: false}}
checkpoint: {{every_steps: {saved}, keep: 2}}
cache: {{mode: "off"}}
engine: {{mode: default}}
"""
SHORT = {"last": 8, "turn": 3, "evaluated": 4, "saved": 2}  # each of its calls is looked at
LONG = {"last": 600, "turn": 200, "evaluated": 100, "saved": 4}  # can be ended thirty times, and go on each time
AS_LONG = 0.02  # seconds that a step of plain TensorFlow is made to take, as one of finetune does


@dataclass(frozen=True)
class Job:
    """A run of one side.

    Attributes:
      command: what trains in a folder, or goes on there.
      last: the number of its last step.
      when_full: the statuses with which it may end where the disk takes nothing.
      when_asked: those with which it may end where a signal asks it to.
      is_begun: whether a folder is a run's by now, and others may put their files into it.
      is_saving: whether a checkpoint is being written there.
      may_move: whether what it leaves is the same in another folder.
    """

    command: Callable[[Path], list[str]]
    last: int
    when_full: frozenset[int]
    when_asked: frozenset[int]
    is_begun: Callable[[Path], bool]
    is_saving: Callable[[Path], bool]
    may_move: bool = True


def jobs(folder: Path, size: dict[str, int]) -> dict[str, Job]:
    """The two sides by name, as in the table; their recipes are written into a folder."""
    recipe = folder / f"everything-{size['last']}.yaml"
    recipe.write_text(EVERYTHING.format(**size), encoding="utf-8")
    ours = [sys.executable, "-m", "finetune", f"recipe={recipe}"]
    plain = [sys.executable, "-m", "benchmarks.torture.plain"]
    how = [str(size["last"]), str(size["saved"]), str(AS_LONG)]
    return {
        "finetune": Job(
            command=lambda run: [*ours, f"run.dir={run}"],
            last=size["last"],
            when_full=frozenset({0, 5, 75}),
            when_asked=frozenset({0, 75}),
            is_begun=lambda run: (run / "recipe.yaml").exists(),
            is_saving=lambda run: any((run / "checkpoints").glob(".writing-*")),
        ),
        "plain": Job(
            command=lambda run: [*plain, str(run), *how],
            last=size["last"],
            when_full=frozenset({0, 1}),  # it ends with a traceback, as Python programs do
            when_asked=frozenset({0, 1}),
            is_begun=lambda run: run.exists(),
            is_saving=lambda run: any(run.glob("*tempstate*")),
            may_move=False,  # its `checkpoint` file holds whole paths: it would go on from those in the other folder
        ),
    }
