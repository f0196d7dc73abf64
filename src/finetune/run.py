"""The story of one run: a pair in, a fine-tuned pair out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.calibrating.calibration import choose
from finetune.distributing.cluster import Cluster, find_cluster, warning
from finetune.errors import UserError
from finetune.interruption import GoesOn, Interruption
from finetune.plan import make_plan
from finetune.recipe import Recipe
from finetune.results import run_folder
from finetune.results.lock import alone_in
from finetune.results.run_folder import RunFolder
from finetune.running.bystanding import beside_the_chief
from finetune.start import start_tensorflow
from finetune.surgery.source import read_values


def run(
    recipe: Recipe,
    recipe_yaml: str,
    overrides: list[str],
    find_rate: bool = False,
    dry_run: bool = False,
    interruption: Interruption | None = None,
    goes_on: GoesOn | None = None,
    send: Callable[[], None] = lambda: None,
) -> int:
    """Trains what the recipe says, or goes on with it, or says that it is done; gives the exit status.

    With `find_rate` it only looks for a learning rate, from step 0 on, and leaves nothing to go on with. With `dry_run`
    it does all that comes before the first step, computes that step without taking it, and writes nothing.

    Args:
      interruption: what tells whether the run was asked to end.
      goes_on: tells after an evaluation before the last whether to train on, or to give the run up as `pruned`.
      send: sends the run folder where it belongs, if that is elsewhere; see finetune.remote.mirroring.

    Raises:
      UserError: anything that the user can mend.
      Interrupted: the run was asked to end; the same command goes on.
    """
    interruption = interruption or Interruption()
    interruption.begin()  # a job before this one, of a sweep, may have been asked to end
    asked = _Asked(recipe, recipe_yaml, overrides, find_rate, dry_run, interruption, goes_on, send)

    # ---- Is there anything to do, and is nobody else doing it? Of several workers one has the folder, and writes.
    cluster = _workers(asked)
    folder = run_folder.claim(Path(recipe.run.dir or "."), recipe_yaml, recipe.run.allow_change)
    if folder.is_finished and not find_rate:
        return say_finished(folder)
    if cluster is not None and not cluster.is_chief:
        with beside_the_chief(cluster) as own:
            return _go(asked, cluster, folder, own)
    with nullcontext() if dry_run else alone_in(folder.path, recipe.run.wait, check=interruption.check):
        # Another process may have been in it until now.
        folder = run_folder.claim(folder.path, recipe_yaml, recipe.run.allow_change)
        if folder.is_finished and not find_rate:
            return say_finished(folder)
        return _go(asked, cluster, folder, folder)


@dataclass(frozen=True)
class _Asked:
    """What `run` is asked for; see there."""

    recipe: Recipe
    recipe_yaml: str
    overrides: list[str]
    find_rate: bool
    dry_run: bool
    interruption: Interruption
    goes_on: GoesOn | None
    send: Callable[[], None]


def _workers(asked: _Asked) -> Cluster | None:
    """Who trains together; None where this process trains alone."""
    asked_for = asked.recipe.run
    cluster = find_cluster(asked.recipe.distribute, asked_for.workers, asked_for.worker, os.environ)
    if cluster is not None and (asked.find_rate or asked.dry_run):
        what = f"this is {cluster.said}, and a search or a rehearsal needs one"
        raise UserError("recipe", "distribute", what, "add distribute=none, and start it once")
    for line in warning(asked.recipe.distribute, os.environ):
        print(line)
    return cluster


def say_finished(folder: RunFolder) -> int:
    """One line of a run that has come to its end, and its page if that is missing."""
    from finetune.pages import page

    print(f"finished: {folder.path} (step {folder.record['step']}): {folder.record['result']}")
    if not (folder.path / page.PAGE).exists():  # a kill came between the end of the run and its page
        print(page.written(folder.path))
    return 0


def _go(asked: _Asked, cluster: Cluster | None, folder: RunFolder, own: RunFolder) -> int:
    """Begins in a folder, or goes on there; a worker that is not the chief leaves what it writes in its `own`."""
    recipe, interruption, is_training = asked.recipe, asked.interruption, not (asked.find_rate or asked.dry_run)

    # ---- What is to be done. All that can be refused without TensorFlow is refused here, and nothing is written.
    share = (cluster.index, len(cluster.workers)) if cluster is not None else (0, 1)
    plan = make_plan(recipe, share, writes=not asked.dry_run)
    run_folder.check_same(folder.record, plan.digests, recipe.run.allow_change)

    # ---- How TensorFlow is to compute, for it is told before it starts. A run that goes on computes as it began.
    may_measure = is_training and cluster is None
    engine = choose(recipe, plan, asked.recipe_yaml, folder.record, may_measure)
    recipe = replace(recipe, train=replace(recipe.train, xla=engine.setting.xla))

    # ---- From here on it takes TensorFlow, and the seconds to import it.
    started = start_tensorflow(engine, wakes=cluster is None, gpus=recipe.engine.gpus)
    from finetune.distributing.joining import check_alike, join
    from finetune.engine.proof import prove
    from finetune.running import beginning, ending, keeping, rehearsal, training
    from finetune.running.rate_search import search
    from finetune.running.session import open_session
    from finetune.running.space import check_space

    # ---- The other workers, if there are any, who have to be about the same.
    team = join(recipe.distribute, cluster, recipe.run.wait_for_workers, interruption.check)

    # ---- init from the source, or resume from our own last save; source and heads become one model.
    pretrained = read_values(plan.source, recipe.run.seed, recipe.source.allow_nonfinite)
    saved = None if asked.find_rate else keeping.newest(folder, plan)
    kept = run_folder.kept(folder.record, plan.phases) if saved else {}
    session = open_session(recipe, plan, pretrained, saved, kept, interruption, team)
    check_alike(team, recipe, plan.digests, 0 if saved is None else saved.step)
    session.goes_on = asked.goes_on if team.workers == 1 else None  # or all would have to be asked
    if asked.find_rate:
        print(*search(session, folder.path), sep="\n")
        return 0

    # ---- Proof of load: these are the checkpoint's bits, and they give the features that the unsliced graph gives.
    proof = None
    if saved is None:
        proof = prove(plan.source, session.model.variants, session.state.variables(), session.first_inputs())
    pairs = 1 + (recipe.eval.keep_best and len(plan.held_out) > 0)
    session.said.extend(check_space(session.state, folder.path, recipe.checkpoint.keep, pairs, saved is not None))
    if asked.dry_run:
        print(*beginning.lines(session, saved, started, proof), *rehearsal.rehearse(session), sep="\n")
        return 0

    # ---- The run folder, the first lines, and at step 0 the baselines. Who asks it to end now waits for a save.
    interruption.wait()
    with closing(session):
        telling = beginning.open_folder(session, own, saved, started, proof, asked.recipe_yaml, asked.overrides)
        with closing(telling) as tell, closing(keeping.Keeper(own, tell.line, folder, asked.send)) as keeper:
            if saved is None:
                beginning.look_before(session, keeper, tell)
            else:
                keeper.take_up(session, saved)

            # ---- Train, then write the pair, look at it once more, and say what came out.
            last = training.train(session, keeper, tell)
            end = ending.give_up if session.is_given_up else ending.finish
            team.told(lambda: end(session, own, tell, last))
    return 0
