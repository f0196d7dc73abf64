"""Trains a session to its last step, one phase after the other; a recipe that names none has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from finetune.distributing.team import LEAVE, SAVE
from finetune.errors import UserError
from finetune.examples import batches
from finetune.interruption import Interrupted
from finetune.judging.evaluate import Evaluation, metrics
from finetune.learning import monitor
from finetune.learning.state import check_frozen
from finetune.learning.train import Actions, Clock, NonFinite, loop, strides
from finetune.results import run_folder
from finetune.results.checkpoints import write_text
from finetune.results.fates import phase_lines, phase_record
from finetune.results.model_picture import picture
from finetune.results.report import Report
from finetune.results.run_files import PICTURE
from finetune.running import looking
from finetune.running.frozen_part import fill_both
from finetune.running.keeping import Keeper
from finetune.running.patience import patiently
from finetune.running.session import Session
from finetune.running.setbacks import go_back


def train(session: Session, keeper: Keeper, tell: Report) -> int:
    """Trains from `session.start` on; gives the number of the last step, which may be one before `session.stop`.

    Raises:
      UserError: a step is not finite, and to go back is not asked for or was no help; or the disk takes no save.
      Interrupted: the run was asked to end, and has saved what it goes on from.
    """
    tell.progress(session.start, session.stop)
    step = session.start
    while True:
        try:
            step = _train_phase(session, keeper, tell, step)
        except NonFinite as bad:
            session.team.told(partial(keeper.wait, session.interruption))
            step = go_back(session, keeper.run, tell, bad)
            continue
        except UserError as error:
            if not (lost := session.team.lost(error.__cause__)):
                raise
            session.interruption.by = lost
            save(session, keeper, tell, session.made)
            keeper.leave(session.interruption)
        if step == session.stop or session.is_given_up or monitor.ends(session.state.watch, session.rules):
            keeper.wait(session.interruption)
            return step
        keeper.leave(session.interruption)
        over, count = session.phase.name, len(session.state.frozen)
        check_frozen(session.state.frozen, session.standing.frozen)
        tell.line(f"frozen: {count} variables are bit-identical to what they were when {over} began")
        session.turn(step)


def _train_phase(session: Session, keeper: Keeper, tell: Report, step: int) -> int:
    """The steps of the phase under way that are still to be made; gives the number of the last one."""
    recipe, plan, phase, standing = session.recipe, session.plan, session.phase, session.standing
    folder, team, session.made = keeper.folder, session.team, step
    leave = partial(keeper.leave, session.interruption)
    surely = partial(patiently, tell.line, leave)
    tell.part = phase.name
    if phase.name:
        surely(write_text, folder.path / PICTURE, picture(plan, session.model))
    record = run_folder.read_record(folder.path)
    kept = {"kept": {**record.get("kept", {}), phase.name: session.decision.tensors}}
    entries = phase_record(record, plan, session.model, phase, standing) | kept
    surely(run_folder.add_to_record, folder.path, entries)
    for line in phase_lines(plan, session.model, phase, standing):
        tell.line(line)
    surely(fill_both, session.frozen_part, tell, leave)
    if standing.owes and _evaluate(session, keeper, tell, step):
        return step
    end = session.stop if phase.last is None else min(session.stop, phase.last)
    every = recipe.eval.every_steps or plan.steps_per_epoch(recipe.train.batch_size)
    evaluation = Clock(every if len(plan.held_out) else None)  # or strides would end there for nothing
    checkpoints = Clock(recipe.checkpoint.every_steps, recipe.checkpoint.every_minutes, partial(team.wish, SAVE))
    longest = session.longest_stride
    # A line of the log that has more steps than a call is told when its last step is made.
    told = recipe.train.log_every_steps if recipe.train.log_every_steps >= longest else None
    ends = strides(step, end, longest, [evaluation.every_steps, checkpoints.every_steps, told])
    return loop(
        session.stride_with(session.share, recipe.train.ema),
        session.training_batches(step, end, None if longest == 1 else ends),
        ends,
        step,
        Actions(
            log=partial(_log, session, tell),
            evaluate=partial(_evaluate, session, keeper, tell),
            save=partial(save, session, keeper, tell),
            advance=partial(_advance, session, keeper, tell),
            leaves=partial(_leaves, session),
        ),
        log_every=recipe.train.log_every_steps,
        evaluation=evaluation,
        checkpoints=checkpoints,
    )


def _evaluate(session: Session, keeper: Keeper, tell: Report, step: int) -> bool:
    """The same as `evaluate`; one that is interrupted is owed by what is saved, and made by the run that goes on."""
    is_owed = session.standing.owes
    session.standing = replace(session.standing, owes=False)
    try:
        return evaluate(session, keeper, tell, step)
    except Interrupted:
        session.standing = replace(session.standing, owes=True)
        if not is_owed:
            save(session, keeper, tell, step)
        keeper.wait(session.interruption)
        raise


def evaluate(session: Session, keeper: Keeper, tell: Report, step: int) -> bool:
    """Looks at the held-out examples, and concludes from it whether the phase under way, or the run, is over."""
    asked, held_out, phase = session.recipe.eval, session.plan.held_out, session.phase
    if not len(held_out):
        return session.standing.is_over(phase, step)
    evaluations: dict[str, Evaluation] = {}

    def look() -> dict[str, float]:
        evaluations.update(looking.evaluations(session))
        return metrics(evaluations, asked.metrics)

    found = session.team.told(look)  # by the chief alone, or processors of two kinds might conclude two things
    before = session.state.watch
    value = monitor.value_of(asked.metric, found)
    now = monitor.seen(before, session.rules, step, value) if step else before  # an untrained head is no result
    is_best = step > 0 and now.best_step == step
    tell.scalars("eval", step, found, "  (best so far)" if is_best else "")
    tell.predictions(step, held_out, evaluations, batches.pictures, always=step in (0, session.stop))
    if is_best and asked.keep_best:
        keeper.keep_best(session, {"step": step, **found})
    session.state.conclude(now)
    if now.falls > before.falls:
        tell.line(f"plateau: from here on at {monitor.share_of_rate(now, session.rules):g} of the learning rate")
    if step:
        session.standing = session.standing.seen(phase, found)
    if monitor.ends(now, session.rules):
        return True
    if session.goes_on is not None and 0 < step < session.stop:
        session.is_given_up = not session.goes_on(step, found)
    return session.is_given_up or session.standing.is_over(phase, step)


def save(session: Session, keeper: Keeper, tell: Report, step: int) -> None:
    """Saves what a resumed run goes on from, and says so when it is safe."""
    tell.sync()
    keeper.save(session, step, partial(tell.line, f"saved step {step}"))


def _leaves(session: Session) -> bool:
    """Whether all leave here, for one of the workers was asked to."""
    if leaves := session.team.wish(LEAVE, bool(session.interruption.by)):
        session.interruption.by = session.interruption.by or "a signal to another worker"
    return leaves


def _advance(session: Session, keeper: Keeper, tell: Report, loss: float) -> None:
    session.made += 1
    tell.advance(loss)
    keeper.try_again()


def _log(session: Session, tell: Report, step: int, found: Mapping[str, float]) -> None:
    share = session.share
    found = {**found, "examples_per_second": found["examples_per_second"] * session.team.workers}
    changing = {} if share is None else {"learning_rate": session.phase.train.learning_rate * share(step)}
    tell.scalars("train", step, {**found, **changing})
