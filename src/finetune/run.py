"""The story of one run: a pair in, a fine-tuned pair out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.learning import monitor
from finetune.learning.course import Standing, naming, standing_in, unreached
from finetune.plan import make_plan
from finetune.recipe import Recipe
from finetune.results import checkpoints, run_folder
from finetune.start import start_tensorflow
from finetune.surgery.source import read_values

STEM = "model"  # of every checkpoint: model.meta, model-100.index


def run(recipe: Recipe, recipe_yaml: str, overrides: list[str], find_rate: bool = False) -> int:
    """Trains what the recipe says, or goes on with it, or says that it is done; gives the exit status.

    With `find_rate` it only looks for a learning rate, from step 0 on, and leaves nothing to go on with.

    Raises:
      UserError: anything that the user can mend.
    """
    # ---- Is there anything to do?
    folder = run_folder.claim(Path(recipe.run.dir or "."), recipe_yaml)
    if folder.is_finished and not find_rate:
        print(f"finished: {folder.path} (step {folder.record['step']}): {folder.record['result']}")
        return 0

    # ---- What is to be done. All that can be refused without TensorFlow is refused here, and nothing is written.
    plan, train = make_plan(recipe), recipe.train
    source = plan.source
    run_folder.check_same(folder.record, plan.digests)

    # ---- From here on it takes TensorFlow, and the seconds to import it.
    started = start_tensorflow()
    from finetune.engine import lora
    from finetune.engine.graft import OLD, check_gradients, graft, pair_graph, regraft
    from finetune.engine.heads import initial_values
    from finetune.engine.old_head import make_old_head
    from finetune.engine.proof import prove
    from finetune.engine.reuse import with_old_rows
    from finetune.engine.rows import check_sizes
    from finetune.learning import baselines, batches, duplicates
    from finetune.learning.accumulation import portions
    from finetune.learning.augment_keys import settle
    from finetune.learning.data import Examples
    from finetune.learning.distill import with_old_logits
    from finetune.learning.drift import Drift, drift
    from finetune.learning.evaluate import Evaluation, evaluate, losses_of, metrics
    from finetune.learning.find_rate import STEPS, rate_at, sweep
    from finetune.learning.l2_sp import anchors, penalised
    from finetune.learning.mixing import make_mixing
    from finetune.learning.optimizers import make
    from finetune.learning.state import State, as_saved, check_frozen, digest, make_state, saved_keys
    from finetune.learning.train import Actions, Clock, NonFinite, check_finite, loop, make_step, seed_of
    from finetune.results import damage, export, findings, rates, report
    from finetune.results.rollback import persistent
    from finetune.surgery import doubts

    # ---- init from the source, or resume from our own last save, in the phase that it was in.
    pretrained = read_values(source, recipe.run.seed, recipe.source.allow_nonfinite)
    pieces = source.pieces()
    load_newest = partial(checkpoints.load_newest, folder.checkpoints, STEM, saved_keys(pretrained, pieces))
    saved = None if find_rate else load_newest()
    start = 0 if saved is None else saved.step
    rules = plan.rules(recipe)
    is_over = saved is not None and monitor.ends(monitor.watch_in(saved.values), rules)  # by an evaluation
    stop = start if is_over else max(start, plan.steps)
    standing = Standing() if saved is None else standing_in(saved.values)
    standing = standing if is_over else standing.at(plan.phases, start)
    phase = plan.phases[standing.number]

    # ---- Graft: source and head become pure functions of inputs and variables.
    load_training = batches.make_loader(plan.training, source.input_kinds(), recipe.data)
    load_held_out = batches.make_loader(plan.held_out, source.input_kinds(), recipe.data)
    probe = partial(batches.probe, plan.training, load_training, plan.portion, pretrained)
    sized = check_sizes(source, phase.variants.evaluation, phase.variants.feeds, probe()) if source.is_resized else []
    distill = recipe.distill if recipe.distill.tensor is not None else None
    mixing = make_mixing(train.mixup, train.cutmix, plan.tasks)
    with naming(phase.key):
        words = distill, mixing is not None, train.precision, train.xla
        model = graft(phase.variants, plan.heads, plan.tasks, probe, *words)
    for later in plan.phases[1:] if saved is None else ():  # what is wrong with one is said before the first step
        with naming(later.key):
            check_gradients(model, later.variants)
            make(later.train.optimizer, later.train.learning_rate, later.train.optimizer_args)
    old_head = plan.old_head and make_old_head(plan.old_head, recipe.run.seed, recipe.source.allow_nonfinite, probe())
    heads, reused = with_old_rows(initial_values(model.new_variables, recipe.run.seed), plan.tasks, plan.heads, source)
    fresh = heads | lora.initial_values(model.adapters, recipe.run.seed)

    def begin(values: Mapping[str, Any], step: int) -> tuple[State, Standing]:
        """What the phase under way works on, from all that there is when it begins or goes on."""
        begins = step == standing.began[-1]
        variables = {name: values[name] for name in (*pretrained, *fresh)}
        with naming(phase.key):
            state = make_state(variables, model.rates, model.updated, pieces, phase.train)
        state.restore(values, begins)
        if begins:
            state.conclude(monitor.anew(state.watch))
        frozen = standing.frozen if standing.frozen and not begins else digest(state.frozen)
        check_frozen(state.frozen, frozen)
        return state, replace(standing, frozen=frozen)

    def values_of(saved: checkpoints.Loaded | None) -> dict[str, Any]:
        """All that there is in a checkpoint, or at step 0; what no phase changes is the source's."""
        never = {name: pretrained[name] for name in pretrained.keys() - plan.moving()}
        return {**pretrained, **fresh, **(as_saved(saved.values, pieces) if saved else {}), **never}

    state, standing = begin(values_of(saved), start)

    varied = settle(recipe.data.augment, recipe.data.kind) is not None
    portion = train.batch_size, recipe.run.seed

    def batches_of(start: int, stop: int) -> Iterator[batches.Batch]:
        made = batches.training_batches(
            plan.training, load_training, start, stop, *portion, plan.members, varied, mixing
        )
        return made if model.teacher is None else with_old_logits(made, model.teacher, pretrained, OLD)

    if find_rate:

        def loss_at(number: int) -> float:
            try:
                return tried(number, *next(given)[:2])["loss"]
            except NonFinite as bad:
                raise UserError("numerics", f"step {number}", bad.what, "look at the data with --check-data") from bad

        given = batches_of(0, STEPS)
        share = lambda number: rate_at(number) / phase.train.learning_rate  # noqa: E731
        drawn = anchors(model.rates, pretrained, heads, plan.l2_sp(train, model.rates), train.l2_head)
        words = recipe.run.seed, share, train.clip_norm, train.accumulate
        tried = make_step(penalised(model.step, drawn), state, *words)
        for line in rates.write(folder.path, sweep(loss_at)):
            print(line)
        return 0

    # ---- Proof of load: these are the checkpoint's bits, and they give the features that the unsliced graph gives.
    proof = None
    if saved is None:
        inputs = batches.first_inputs(plan.training, load_training, source.probe_size)
        proof = prove(source, model.variants, state.variables(), inputs)

    # ---- The run folder, and the first lines of what is told.
    run_folder.prepare(folder, recipe_yaml)
    for pair in (folder.model, folder.best):
        export.mend(pair)
    record = folder.record or {
        **run_folder.provenance(plan, recipe.run.seed, overrides, proof),
        **report.variable_record(plan, model),
    }
    record = {**record, "status": "running"}
    run_folder.write_record(folder.path, record)
    tell = report.open_report(folder.path, saved)
    tell.line(report.first_line(folder.path, source.pair.prefix, STEM, saved))
    warnings = doubts.warnings(source, model.variants.evaluation, pretrained) + unreached(plan.phases, plan.steps)
    warnings += duplicates.warnings(plan.training, plan.held_out, [task.column for task in plan.tasks])
    numerics = report.numerics(train, model, len(state.averages), started)
    for line in [
        *report.opening(plan, model, saved, started, proof),
        *numerics,
        *state.said,
        *sized,
        *reused,
        *warnings,
    ]:
        tell.line(line)
    meta = pair_graph(source, model)
    if not (folder.checkpoints / f"{STEM}.meta").exists():  # the same at every save, so it is written once
        tell.graph(meta)
        tell.hparams(recipe)
        checkpoints.write_text(folder.path / report.PICTURE, report.picture(plan, model))
        checkpoints.write_bytes(folder.checkpoints / f"{STEM}.meta", meta.SerializeToString())

    # ---- Train, one phase after the other; where a recipe names none, there is one.
    def in_order(examples: Examples, load: batches.Loader) -> Iterator[batches.Batch]:
        size = recipe.eval.batch_size or plan.portion
        return batches.evaluation_batches(examples, load, size, whole=source.batch_size is not None)

    def held_out_now() -> dict[str, Evaluation]:
        forward = lambda inputs, targets: model.forward(state.arguments(inputs, targets))  # noqa: E731
        return evaluate(forward, in_order(plan.held_out, load_held_out), plan.tasks, len(plan.held_out))

    def features_now(examples: Examples) -> dict[str, Any]:
        rows = in_order(examples, batches.make_loader(examples, source.input_kinds(), recipe.data))
        return baselines.collect((model.features(state.arguments(i, {})) for i, _, _ in rows), len(examples))

    def drift_now() -> Drift | None:
        if old_head is None or plan.old_head is None:
            return None
        before = {f"variable/{name}": value for name, value in pretrained.items()}
        now = {f"variable/{n}": value for n, value in lora.merged(model.adapters, state.judged()).items()}
        inputs = (state.arguments(i, {}) for i, _, _ in in_order(plan.held_out, load_held_out))
        rows = ({"before": old_head({**given, **before}), "after": old_head({**given, **now})} for given in inputs)
        return drift(plan.old_head.cut, **baselines.collect(rows, len(plan.held_out)))

    def sound(step: int) -> None:
        if not recipe.source.allow_nonfinite:
            check_finite(state, step)

    def write_pair(place: Path, evaluated: Mapping[str, float]) -> None:
        beside = report.beside_the_pair(plan, model, recipe, evaluated)
        export.write_pair(place, meta, lora.merged(model.adapters, state.judged()), pieces, beside)

    def evaluate_at(step: int) -> bool:
        """Whether the phase under way, or all, is over."""
        nonlocal standing
        if not len(plan.held_out):
            return standing.is_over(phase, step)
        evaluated = held_out_now()
        found = metrics(evaluated, recipe.eval.metrics)
        value = monitor.value_of(recipe.eval.metric, found)
        before = state.watch
        now = monitor.seen(before, rules_now(), step, value) if step else before  # an untrained head is no result
        is_best = step > 0 and now.best_step == step
        tell.scalars("eval", step, found, "  (best so far)" if is_best else "")
        tell.predictions(step, plan.held_out, evaluated, batches.pictures)
        if is_best and recipe.eval.keep_best:
            sound(step)
            write_pair(folder.best, {"step": step, **found})
        state.conclude(now)
        if now.falls > before.falls:
            tell.line(f"plateau: from here on at {monitor.share_of_rate(now, rules_now()):g} of the learning rate")
        standing = standing.seen(phase, found) if step else standing
        return monitor.ends(now, rules) or standing.is_over(phase, step)

    def rules_now() -> monitor.Rules:
        return rules if phase.train.schedule == "plateau" else replace(rules, plateau=None)

    def save_at(step: int) -> None:
        sound(step)
        check_frozen(state.frozen, standing.frozen)
        retention = checkpoints.Retention(recipe.checkpoint.keep, recipe.checkpoint.keep_every_hours)
        tensors = state.everything(step) | lora.merged(model.adapters, state.variables())
        tensors |= standing.tensors() if recipe.phases else {}
        checkpoints.save(folder.checkpoints, f"{STEM}-{step}", tensors, pieces, retention, time.time())
        tell.line(f"saved step {step}")

    def log_at(step: int, found: Mapping[str, float]) -> None:
        changing = {} if share is None else {"learning_rate": phase.train.learning_rate * share(step)}
        tell.scalars("train", step, {**found, **changing})

    def move_to(values: Mapping[str, Any], step: int) -> None:
        """Begins the phase in which `standing` is, or goes on with it."""
        nonlocal phase, model, state, standing
        if phase is not plan.phases[standing.number]:
            phase = plan.phases[standing.number]
            model = regraft(model, phase.variants)
            checkpoints.write_text(folder.path / report.PICTURE, report.picture(plan, model))
        tell.part = phase.name
        state, standing = begin(values, step)

    def go_back(bad: NonFinite) -> int:
        nonlocal standing
        before = state.watch
        back = load_newest() if train.on_nan == "rollback" and before.rollbacks < monitor.RETRIES else None
        if back is None:
            at = bad.step - 1, bad.step
            inputs, targets, indices = next(batches_of(*at))
            step = state.arguments(inputs, targets, seed_of(recipe.run.seed, bad.step))
            tried = (model.first_nonfinite(given) for given in portions(step, train.accumulate))
            first = next((found for found in tried if found is not None), None)
            # Each example by itself: neither varied nor mixed with another.
            plain = batches.training_batches(plan.training, load_training, *at, *portion, plan.members)
            inputs, targets, _ = next(plain)
            alone = portions(state.arguments(inputs, targets, (0, 0)), train.accumulate)
            losses = np.concatenate([losses_of(model.forward(given), plan.tasks) for given in alone])
            sources = [plan.training.sources[int(i)] for i in indices]
            raise damage.refusal(bad.step, bad.what, first, losses, sources, before.rollbacks) from bad
        # Nothing is saved: a run that is killed before its next save comes to the same step with the same bits, and
        # goes back once more. Every checkpoint is finite, for a state that is not is never saved.
        standing = standing_in(back.values).at(plan.phases, back.step)
        move_to(values_of(back), back.step)
        state.conclude(monitor.rolled_back(state.watch, before))
        share = monitor.share_of_rate(state.watch, rules_now())
        tell.rollback(state.watch.rollbacks, back.step, bad.step, bad.what, share)
        return back.step

    def train_from(step: int) -> int:
        nonlocal record, share, standing
        while True:
            record = {**record, **report.phase_record(record, plan, model, phase, standing)}
            run_folder.write_record(folder.path, record)
            for line in report.phase_lines(plan, model, phase, standing):
                tell.line(line)
            left = lambda: monitor.share_of_rate(state.watch, rules_now())  # noqa: E731
            share = phase.share_of_rate(standing.began[-1], plan.steps, left)
            drawn = anchors(model.rates, pretrained, heads, plan.l2_sp(train, model.rates), train.l2_head)
            how = train.clip_norm, train.accumulate, train.ema
            end = stop if phase.last is None else min(stop, phase.last)
            step = loop(
                make_step(penalised(model.step, drawn), state, recipe.run.seed, share, *how),
                batches_of(step, end),
                step,
                end,
                Actions(log=log_at, evaluate=evaluate_at, save=save_at, advance=tell.advance),
                log_every=train.log_every_steps,
                evaluation=Clock(recipe.eval.every_steps or plan.steps_per_epoch(train.batch_size)),
                checkpoints=Clock(recipe.checkpoint.every_steps, recipe.checkpoint.every_minutes),
            )
            if step == stop or monitor.ends(state.watch, rules):
                return step
            count = len(state.frozen)
            tell.line(f"frozen: {count} variables are bit-identical to what they were when {phase.name} began")
            standing = standing.at(plan.phases, step)
            move_to({name: np.asarray(value) for name, value in state.everything(step).items()}, step)

    share: Callable[[int], float] | None = None
    tell.part = phase.name
    if saved is None:
        evaluate_at(0)  # the baseline: an untrained head
        affordable = plan.steps * train.batch_size  # a probe costs no more than the training
        if recipe.eval.probe and len(plan.held_out) and affordable:
            named = recipe.eval.metrics
            found = baselines.probe(features_now, plan.training, plan.held_out, plan.tasks, affordable, named)
            tell.scalars("probe", 0, found)
        if varied or mixing is not None:
            words = recipe.data, *portion, plan.members, mixing
            tell.training(batches.seen_in_training(plan.training, source.input_kinds(), *words))
        if train.on_nan == "rollback":
            save_at(0)
    tell.progress(start, stop)
    last = persistent(train_from, go_back, start)

    # ---- Write the pair, look at it once more, and say what came out.
    final = held_out_now() if len(plan.held_out) else {}
    numbers = metrics(final, recipe.eval.metrics) if final else {}
    write_pair(folder.model, {"step": last, **numbers} if final else {})
    merged = {adapter.variable for adapter in model.adapters}
    untouched = pretrained.keys() - plan.moving() - merged
    certificate = digest({name: pretrained[name] for name in untouched})
    for pair in (folder.model, folder.best):
        if pair.exists():
            check_frozen(export.read_back(pair, untouched, pieces), certificate)
    check_frozen(state.frozen, standing.frozen)
    still = state.frozen.keys() - merged
    check_frozen(export.read_back(folder.model, still, pieces), digest({name: state.frozen[name] for name in still}))
    earlier = {name: report.first_numbers(folder.path, phase) for name, phase in findings.EARLIER.items()}
    judged = findings.judge(final, recipe.eval.metrics, recipe.run.seed, earlier)
    moved = drift_now() if final else None
    findings.write(folder.path, last, judged, final, plan.held_out.sources, moved)
    best = report.best(state.watch, recipe.eval.metric, folder.best)
    result = findings.sentence(judged, len(plan.held_out), last) + report.best_elsewhere(best, last)
    if last < plan.steps:
        waited = f"{rules.stop_early} evaluations without progress of {recipe.eval.metric}"
        tell.line(f"stopped early at step {last}: {waited}")
    proven = len(untouched & source.start.keys.keys())  # the others have nothing to be identical to
    tell.line(f"frozen: {proven} variables in the pair are bit-identical to the source")
    tell.line(f"pair: {folder.model / 'model.meta'}")
    tell.line(f"result: {result}")
    for line in [*findings.hints(judged), *([moved.told()] if moved else [])]:
        tell.line(line)
    done = {"status": "finished", "step": last, "result": result, "metrics": numbers, "best": best}
    done["intervals"] = findings.intervals(judged)
    run_folder.write_record(folder.path, {**record, **done})
    tell.close()
    return 0
