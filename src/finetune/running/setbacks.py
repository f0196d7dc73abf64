"""What a run does about a step that is not finite: it goes back to its newest checkpoint, or says where it begins."""

from __future__ import annotations

import numpy as np

from finetune.errors import UserError
from finetune.judging.evaluate import losses_of
from finetune.learning import monitor
from finetune.learning.accumulation import portions
from finetune.learning.course import standing_in
from finetune.learning.train import NonFinite, seed_of
from finetune.results import damage
from finetune.results.report import Report
from finetune.results.run_folder import RunFolder
from finetune.running import keeping
from finetune.running.session import Session


def go_back(session: Session, folder: RunFolder, tell: Report, bad: NonFinite) -> int:
    """Takes up the newest checkpoint at a lower learning rate; gives its step.

    Nothing is saved: a run that is killed before its next save comes to the same step with the same bits, and goes back
    once more. Every checkpoint is finite, for a state that is not is never saved.

    Raises:
      UserError: the recipe does not ask for it, or it was no help so far.
    """
    before = session.state.watch
    may = session.recipe.train.on_nan == "rollback" and before.rollbacks < monitor.RETRIES
    back = keeping.newest(folder, session.plan) if may else None
    if back is None:
        raise diagnosis(session, bad) from bad
    session.standing = standing_in(back.values).at(session.plan.phases, back.step)
    session.take_up(session.values_in(back), back.step)
    session.state.conclude(monitor.rolled_back(session.state.watch, before))
    share = monitor.share_of_rate(session.state.watch, session.rules)
    owes = session.standing.owes
    tell.rollback(session.state.watch.rollbacks, back, owes, bad.step, bad.what, share)
    return back.step


def diagnosis(session: Session, bad: NonFinite) -> UserError:
    """Which tensor of the step is the first that is not finite, and which examples bring it about."""
    session = session.whole()
    plan, model, state, count = session.plan, session.model, session.state, session.recipe.train.accumulate
    inputs, targets, indices = next(session.training_batches(bad.step - 1, bad.step))
    step = state.arguments(inputs, targets, seed_of(session.recipe.run.seed, bad.step))
    tried = (model.first_nonfinite(given) for given in portions(step, count))
    first = next((found for found in tried if found is not None), None)
    inputs, targets, _ = session.plain_batch(bad.step)  # of a mixed one no example could be blamed
    alone = portions(state.arguments(inputs, targets, (0, 0)), count)
    losses = np.concatenate([losses_of(model.forward(given), plan.tasks) for given in alone])
    sources = [plan.training.sources[int(i)] for i in indices]
    return damage.refusal(bad.step, bad.what, first, losses, sources, state.watch.rollbacks)
