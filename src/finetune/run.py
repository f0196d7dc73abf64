"""The story of one run: a pair in, a fine-tuned pair out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.learning.course import Standing, naming, standing_in, unreached
from finetune.plan import make_plan
from finetune.recipe import Recipe
from finetune.results import checkpoints, run_folder
from finetune.start import start_tensorflow
from finetune.surgery.source import read_values

STEM = "model"  # of every checkpoint: model.meta, model-100.index


def run(recipe: Recipe, recipe_yaml: str, overrides: list[str]) -> int:
    """Trains what the recipe says, or goes on with it, or says that it is done; gives the exit status.

    Raises:
      UserError: anything that the user can mend.
    """
    # ---- Is there anything to do?
    folder = run_folder.claim(Path(recipe.run.dir or "."), recipe_yaml)
    if folder.is_finished:
        print(f"finished: {folder.path} (step {folder.record['step']}): {folder.record['result']}")
        return 0

    # ---- What is to be done. All that can be refused without TensorFlow is refused here, and nothing is written.
    plan = make_plan(recipe)
    source = plan.source
    run_folder.check_same(folder.record, plan.digests)

    # ---- From here on it takes TensorFlow, and the seconds to import it.
    started = start_tensorflow()
    from finetune.engine.graft import check_gradients, graft, pair_graph, regraft
    from finetune.engine.heads import initial_values
    from finetune.engine.proof import prove
    from finetune.engine.rows import check_sizes
    from finetune.learning import batches
    from finetune.learning.evaluate import Evaluation, evaluate, metrics
    from finetune.learning.optimizers import make
    from finetune.learning.state import State, as_saved, check_frozen, digest, make_state, saved_keys
    from finetune.learning.train import Actions, Clock, loop, make_step
    from finetune.results import export, report
    from finetune.surgery import doubts

    # ---- init from the source, or resume from our own last save, in the phase that it was in.
    pretrained = read_values(source, recipe.run.seed, recipe.source.allow_nonfinite)
    saved = checkpoints.load_newest(folder.checkpoints, STEM, saved_keys(pretrained, source.pieces()))
    start = 0 if saved is None else saved.step
    stop = max(start, plan.steps)
    standing = (Standing() if saved is None else standing_in(saved.values)).at(plan.phases, start)
    phase = plan.phases[standing.number]

    # ---- Graft: source and head become pure functions of inputs and variables.
    load_training = batches.make_loader(plan.training, source.input_kinds(), recipe.data)
    load_held_out = batches.make_loader(plan.held_out, source.input_kinds(), recipe.data)
    probe = partial(batches.probe, plan.training, load_training, recipe.train.batch_size, pretrained)
    sized = check_sizes(source, phase.variants.evaluation, phase.variants.feeds, probe()) if source.is_resized else []
    with naming(phase.key):
        model = graft(phase.variants, plan.heads, plan.tasks, probe)
    for later in plan.phases[1:] if saved is None else ():  # what is wrong with one is said before the first step
        with naming(later.key):
            check_gradients(model, later.variants)
            make(later.train.optimizer, later.train.learning_rate, later.train.optimizer_args)

    def begin(values: Mapping[str, Any], step: int) -> tuple[State, Standing]:
        """What the phase under way works on, from all that there is when it begins or goes on."""
        begins = step == standing.began[-1]
        variables = {name: values[name] for name in (*pretrained, *fresh)}
        with naming(phase.key):
            state = make_state(variables, model.rates, model.updated, source.pieces(), phase.train)
        state.restore(values, begins)
        frozen = standing.frozen if standing.frozen and not begins else digest(state.frozen)
        check_frozen(state.frozen, frozen)
        return state, replace(standing, frozen=frozen)

    fresh = initial_values(model.new_variables, recipe.run.seed)
    values = {**pretrained, **fresh}
    if saved is not None:
        values |= as_saved(saved.values, source.pieces())
        values |= {name: pretrained[name] for name in pretrained.keys() - plan.moving()}
    state, standing = begin(values, start)

    # ---- Proof of load: these are the checkpoint's bits, and they give the features that the unsliced graph gives.
    proof = None
    if saved is None:
        inputs = batches.first_inputs(plan.training, load_training, source.probe_size)
        proof = prove(source, model.variants, state.variables(), inputs)

    # ---- The run folder, and the first lines of what is told.
    run_folder.prepare(folder, recipe_yaml)
    record = folder.record or {
        **run_folder.provenance(plan, recipe.run.seed, overrides, proof),
        **report.variable_record(plan, model),
    }
    record = {**record, "status": "running"}
    run_folder.write_record(folder.path, record)
    tell = report.open_report(folder.path, saved)
    tell.line(report.first_line(folder.path, source.pair.prefix, STEM, saved))
    warnings = doubts.warnings(source, model.variants.evaluation, pretrained) + unreached(plan.phases, plan.steps)
    for line in [*report.opening(plan, model, saved, started, proof), *sized, *warnings]:
        tell.line(line)
    meta = pair_graph(source, model)
    if not (folder.checkpoints / f"{STEM}.meta").exists():  # the same at every save, so it is written once
        tell.graph(meta)
        tell.hparams(recipe)
        checkpoints.write_text(folder.path / report.PICTURE, report.picture(plan, model))
        checkpoints.write_bytes(folder.checkpoints / f"{STEM}.meta", meta.SerializeToString())

    # ---- Train, one phase after the other; where a recipe names none, there is one.
    def held_out_now() -> dict[str, Evaluation]:
        size = recipe.eval.batch_size or recipe.train.batch_size
        held_out = batches.evaluation_batches(plan.held_out, load_held_out, size, whole=source.batch_size is not None)
        forward = lambda inputs, targets: model.forward(state.arguments(inputs, targets))  # noqa: E731
        return evaluate(forward, held_out, plan.tasks, len(plan.held_out))

    def evaluate_at(step: int) -> Mapping[str, float]:
        if not len(plan.held_out):
            return {}
        found = held_out_now()
        tell.scalars("eval", step, metrics(found))
        tell.predictions(step, plan.held_out, found, batches.pictures)
        return metrics(found)

    def is_last(step: int) -> bool:
        nonlocal standing
        standing = standing.seen(phase, evaluate_at(step))
        return standing.is_over(phase, step)

    def save_at(step: int) -> None:
        check_frozen(state.frozen, standing.frozen)
        retention = checkpoints.Retention(recipe.checkpoint.keep, recipe.checkpoint.keep_every_hours)
        tensors = {**state.everything(step), **(standing.tensors() if recipe.phases else {})}
        checkpoints.save(folder.checkpoints, f"{STEM}-{step}", tensors, state.pieces, retention, time.time())
        tell.line(f"saved step {step}")

    def log_at(step: int, found: Mapping[str, float]) -> None:
        changing = {} if share is None else {"learning_rate": phase.train.learning_rate * share(step)}
        tell.scalars("train", step, {**found, **changing})

    tell.part = phase.name
    if saved is None:
        evaluate_at(0)  # the baseline: an untrained head
    tell.progress(start, stop)
    step = start
    while True:
        record = {**record, **report.phase_record(record, plan, model, phase, standing)}
        run_folder.write_record(folder.path, record)
        for line in report.phase_lines(plan, model, phase, standing):
            tell.line(line)
        share = phase.share_of_rate(standing.began[-1], plan.steps)
        end = stop if phase.last is None else min(stop, phase.last)
        step = loop(
            make_step(model.step, state, recipe.run.seed, share, recipe.train.clip_norm),
            batches.training_batches(plan.training, load_training, step, end, recipe.train.batch_size, recipe.run.seed),
            step,
            end,
            Actions(log=log_at, evaluate=is_last, save=save_at, advance=tell.advance),
            log_every=recipe.train.log_every_steps,
            evaluation=Clock(recipe.eval.every_steps or plan.steps_per_epoch(recipe.train.batch_size)),
            checkpoints=Clock(recipe.checkpoint.every_steps, recipe.checkpoint.every_minutes),
        )
        if step == stop:
            break
        tell.line(f"frozen: {len(state.frozen)} variables are bit-identical to what they were when {phase.name} began")
        standing = standing.at(plan.phases, step)
        phase = plan.phases[standing.number]
        tell.part = phase.name
        model = regraft(model, phase.variants)
        checkpoints.write_text(folder.path / report.PICTURE, report.picture(plan, model))
        state, standing = begin({name: np.asarray(value) for name, value in state.everything(step).items()}, step)

    # ---- Write the pair, look at it once more, and say what came out.
    beside = report.beside_the_pair(plan, model, recipe)
    export.write_pair(folder.model, meta, state.variables(), state.pieces, beside)
    written = export.read_back(folder.model, state.frozen, state.pieces)
    check_frozen(written, standing.frozen)
    others = {name for other in plan.phases if other is not phase for name in other.variants.moving()}
    untouched = state.frozen.keys() - others
    check_frozen({name: written[name] for name in untouched}, digest({name: pretrained[name] for name in untouched}))
    final = held_out_now() if len(plan.held_out) else None
    result = report.result(plan, final, folder.path)
    proven = len(untouched & source.start.keys.keys())  # the others have nothing to be identical to
    tell.line(f"frozen: {proven} variables in the pair are bit-identical to the source")
    tell.line(f"pair: {folder.model / 'model.meta'}")
    tell.line(f"result: {result}")
    done = {"status": "finished", "step": stop, "result": result, "metrics": metrics(final) if final else {}}
    run_folder.write_record(folder.path, {**record, **done})
    tell.close()
    return 0
