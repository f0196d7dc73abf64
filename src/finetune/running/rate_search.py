"""The search for a learning rate: a short sweep on fresh values, of which only its curve is kept."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import UserError
from finetune.learning.find_rate import STEPS, rate_at, sweep
from finetune.learning.train import NonFinite
from finetune.results import rates
from finetune.running.session import Session


def search(session: Session, folder: Path) -> list[str]:
    """Sweeps over the rates and writes what was found to a folder; gives the lines that say it."""
    given = session.training_batches(0, STEPS)
    step = session.step_with(lambda number: rate_at(number) / session.phase.train.learning_rate)

    def loss_at(number: int) -> float:
        inputs, targets, _ = next(given)
        try:
            return step(number, inputs, targets)["loss"]
        except NonFinite as bad:
            raise UserError("numerics", f"step {number}", bad.what, "look at the data with --check-data") from bad

    return rates.write(folder, sweep(loss_at))
