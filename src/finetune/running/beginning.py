"""The beginning of a run: the run folder, the first lines, and what is known before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from finetune.distributing import joining
from finetune.engine.proof import Proof
from finetune.errors import printable
from finetune.examples import duplicates
from finetune.learning.course import unreached
from finetune.results import export, opening, run_folder
from finetune.results.checkpoints import Loaded, write_text
from finetune.results.fates import variable_record
from finetune.results.model_picture import picture
from finetune.results.report import Report, open_report
from finetune.results.run_files import PICTURE
from finetune.results.run_folder import RunFolder
from finetune.running import keeping, looking, training
from finetune.running.frozen_part import fill_both
from finetune.running.keeping import Keeper
from finetune.running.patience import patiently
from finetune.running.session import Session
from finetune.start import Started
from finetune.surgery import doubts


def lines(session: Session, saved: Loaded | None, started: Started, proof: Proof | None) -> list[str]:
    """What people want to know before the first step, and what they are warned of."""
    plan, model, state = session.plan, session.model, session.state
    kept = [session.decision.said] if session.decision.said else []
    warnings = doubts.warnings(plan.source, model.variants.evaluation, session.pretrained)
    warnings += unreached(plan.phases, plan.steps)
    warnings += duplicates.warnings(plan.training, plan.held_out, [task.column for task in plan.tasks])
    return [
        *opening.lines(plan, model, saved, started, proof),
        *opening.numerics(session.recipe.train, model, len(state.averages), started),
        *joining.said(session.team),
        *state.said,
        *session.said,
        *kept,
        *warnings,
    ]


def open_folder(
    session: Session,
    folder: RunFolder,
    saved: Loaded | None,
    started: Started,
    proof: Proof | None,
    recipe_yaml: str,
    overrides: Sequence[str],
) -> Report:
    """Makes the run folder, or mends what a killed run left half done; gives the place from which the run speaks."""
    plan, model = session.plan, session.model
    surely = partial(patiently, _say, session.interruption.check)
    for pair in (folder.model, folder.best):
        surely(export.mend, pair)
    surely(run_folder.prepare, folder, recipe_yaml)
    record = folder.record or {
        **run_folder.provenance(plan, session.recipe.run.seed, overrides, proof, session.team.workers),
        **variable_record(plan, model),
        "engine": started.record(),
    }
    surely(run_folder.write_record, folder.path, {**record, "digests": plan.digests, "status": "running"})
    tell = surely(open_report, folder.path, saved)
    tell.line(opening.first_line(folder.path, plan.source.pair.prefix, keeping.STEM, saved))
    if saved and not folder.record:
        tell.line(f"warning: {run_folder.RECORD} is gone: source, data and machine are compared with nothing")
    changed = run_folder.other_conditions(record, run_folder.conditions(session.team.workers))
    for line in [*lines(session, saved, started, proof), *changed]:
        tell.line(line)
    surely(keeping.write_graph, session, folder)
    # What was told of a run that begins is taken back where it begins again; the picture comes last.
    if saved is None or not (folder.path / PICTURE).exists():
        tell.graph(session.meta)
        tell.hparams(session.recipe)
        surely(write_text, folder.path / PICTURE, picture(plan, model))
    return tell


def _say(line: str) -> None:
    """For what comes before the run has a log."""
    print(printable(line), flush=True)


def look_before(session: Session, keeper: Keeper, tell: Report) -> None:
    """Step 0: the baselines, some training images as augmentation leaves them, and a checkpoint to go back to."""
    tell.part = session.phase.name
    fill_both(session.frozen_part, tell, session.interruption.check)
    training.evaluate(session, keeper, tell, 0)
    if found := session.team.told(partial(looking.probe, session)):
        tell.scalars("probe", 0, found)
    tell.training(session.seen_in_training())
    if session.recipe.train.on_nan == "rollback":
        training.save(session, keeper, tell, 0)
