"""The story of one run: a pair in, a fine-tuned pair out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

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
    from finetune.engine import lora
    from finetune.engine.graft import OLD, graft, pair_graph
    from finetune.engine.heads import initial_values
    from finetune.engine.old_head import make_old_head
    from finetune.engine.proof import prove
    from finetune.engine.reuse import with_old_rows
    from finetune.engine.rows import check_sizes
    from finetune.learning import baselines, batches, duplicates, monitor
    from finetune.learning.augment_keys import settle
    from finetune.learning.data import Examples
    from finetune.learning.distill import with_old_logits
    from finetune.learning.drift import Drift, drift
    from finetune.learning.evaluate import Evaluation, evaluate, losses_of, metrics
    from finetune.learning.l2_sp import anchors, penalised
    from finetune.learning.mixing import make_mixing
    from finetune.learning.state import check_frozen, digest, make_state
    from finetune.learning.train import Actions, Clock, NonFinite, check_finite, loop, make_step, seed_of
    from finetune.results import damage, export, findings, report
    from finetune.results.rollback import persistent, roll_back
    from finetune.surgery import doubts

    # ---- Graft: source and head become pure functions of inputs and variables.
    pretrained = read_values(source, recipe.run.seed, recipe.source.allow_nonfinite)
    load_training = batches.make_loader(plan.training, source.input_kinds(), recipe.data)
    load_held_out = batches.make_loader(plan.held_out, source.input_kinds(), recipe.data)
    probe = partial(batches.probe, plan.training, load_training, recipe.train.batch_size, pretrained)
    sized = check_sizes(source, plan.variants.evaluation, plan.variants.feeds, probe()) if source.is_resized else []
    distill = recipe.distill if recipe.distill.tensor is not None else None
    mixing = make_mixing(recipe.train.mixup, recipe.train.cutmix, plan.tasks)
    model = graft(plan.variants, plan.heads, plan.tasks, probe, distill, mixed=mixing is not None)
    old_head = plan.old_head and make_old_head(plan.old_head, recipe.run.seed, recipe.source.allow_nonfinite, probe())

    # ---- init from the source, or resume from our own last save.
    fresh, reused = with_old_rows(initial_values(model.new_variables, recipe.run.seed), plan.tasks, plan.heads, source)
    drawn = anchors(model.rates, pretrained, fresh, recipe.train.l2_sp, recipe.train.l2_head)
    fresh |= lora.initial_values(model.adapters, recipe.run.seed)
    state = make_state({**pretrained, **fresh}, model.rates, model.updated, source.pieces(), recipe.train)
    certificate = digest({name: pretrained[name] for name in state.frozen})
    saved = checkpoints.load_newest(folder.checkpoints, STEM, state.keys())
    if saved is not None:
        state.restore(saved.values)
    rules = plan.rules(recipe)
    start = 0 if saved is None else saved.step
    stop = start if monitor.ends(state.watch, rules) else max(start, plan.steps)

    # ---- Proof of load: these are the checkpoint's bits, and they give the features that the unsliced graph gives.
    proof = None
    if saved is None:
        inputs = batches.first_inputs(plan.training, load_training, source.probe_size)
        proof = prove(source, plan.variants, state.variables(), inputs)

    # ---- The run folder, and the first lines of what is told.
    run_folder.prepare(folder, recipe_yaml)
    for pair in (folder.model, folder.best):
        export.mend(pair)
    record = folder.record or {
        **run_folder.provenance(plan, recipe.run.seed, overrides, proof),
        **report.variable_record(plan, model),
    }
    run_folder.write_record(folder.path, {**record, "status": "running"})
    tell = report.open_report(folder.path, saved)
    tell.line(report.first_line(folder.path, source.pair.prefix, STEM, saved))
    warnings = doubts.warnings(source, plan.variants.evaluation, pretrained)
    warnings += duplicates.warnings(plan.training, plan.held_out, [task.column for task in plan.tasks])
    for line in [*report.opening(plan, model, saved, started, proof), *state.said, *sized, *reused, *warnings]:
        tell.line(line)
    meta = pair_graph(source, model)
    if not (folder.checkpoints / f"{STEM}.meta").exists():  # the same at every save, so it is written once
        tell.graph(meta)
        tell.hparams(recipe)
        checkpoints.write_text(folder.path / report.PICTURE, report.picture(plan, model))
        checkpoints.write_bytes(folder.checkpoints / f"{STEM}.meta", meta.SerializeToString())

    # ---- Train.
    def in_order(examples: Examples, load: batches.Loader) -> Iterator[batches.Batch]:
        size = recipe.eval.batch_size or recipe.train.batch_size
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
        now = {f"variable/{n}": value for n, value in lora.merged(model.adapters, state.variables()).items()}
        inputs = (state.arguments(i, {}) for i, _, _ in in_order(plan.held_out, load_held_out))
        rows = ({"before": old_head({**given, **before}), "after": old_head({**given, **now})} for given in inputs)
        return drift(plan.old_head.cut, **baselines.collect(rows, len(plan.held_out)))

    def sound(step: int) -> None:
        if not recipe.source.allow_nonfinite:
            check_finite(state, step)

    def write_pair(place: Path, evaluated: Mapping[str, float]) -> None:
        beside = report.beside_the_pair(plan, model, recipe, evaluated)
        export.write_pair(place, meta, lora.merged(model.adapters, state.variables()), state.pieces, beside)

    def evaluate_at(step: int) -> bool:
        if not len(plan.held_out):
            return False
        evaluated = held_out_now()
        found = metrics(evaluated, recipe.eval.metrics)
        value = monitor.value_of(recipe.eval.metric, found)
        before = state.watch
        now = monitor.seen(before, rules, step, value) if step else before  # an untrained head is no result
        is_best = step > 0 and now.best_step == step
        tell.scalars("eval", step, found, "  (best so far)" if is_best else "")
        tell.predictions(step, plan.held_out, evaluated, batches.pictures)
        if is_best and recipe.eval.keep_best:
            sound(step)
            write_pair(folder.best, {"step": step, **found})
        state.conclude(now)
        if now.falls > before.falls:
            tell.line(f"plateau: from here on at {monitor.share_of_rate(now, rules):g} of the learning rate")
        return monitor.ends(now, rules)

    def save_at(step: int) -> None:
        sound(step)
        check_frozen(state.frozen, certificate)
        retention = checkpoints.Retention(recipe.checkpoint.keep, recipe.checkpoint.keep_every_hours)
        tensors = state.everything(step) | lora.merged(model.adapters, state.variables())
        checkpoints.save(folder.checkpoints, f"{STEM}-{step}", tensors, state.pieces, retention, time.time())
        tell.line(f"saved step {step}")

    def log_at(step: int, found: Mapping[str, float]) -> None:
        changing = {} if share is None else {"learning_rate": recipe.train.learning_rate * share(step)}
        tell.scalars("train", step, {**found, **changing})

    def batches_of(start: int, stop: int) -> Iterator[batches.Batch]:
        made = batches.training_batches(
            plan.training, load_training, start, stop, *portion, plan.members, varied, mixing
        )
        return made if model.teacher is None else with_old_logits(made, model.teacher, pretrained, OLD)

    def go_back(bad: NonFinite) -> int:
        back = roll_back(folder.checkpoints, STEM, state) if recipe.train.on_nan == "rollback" else None
        if back is None:
            at = bad.step - 1, bad.step
            inputs, targets, indices = next(batches_of(*at))
            first = model.first_nonfinite(state.arguments(inputs, targets, seed_of(recipe.run.seed, bad.step)))
            # Each example by itself: neither varied nor mixed with another.
            inputs, targets, _ = next(
                batches.training_batches(plan.training, load_training, *at, *portion, plan.members)
            )
            losses = losses_of(model.forward(state.arguments(inputs, targets)), plan.tasks)
            sources = [plan.training.sources[int(i)] for i in indices]
            raise damage.refusal(bad.step, bad.what, first, losses, sources, state.watch.rollbacks) from bad
        share = monitor.share_of_rate(state.watch, rules)
        tell.rollback(state.watch.rollbacks, back, bad.step, bad.what, share)
        return back

    def train_from(start: int) -> int:
        return loop(
            step,
            batches_of(start, stop),
            start,
            stop,
            Actions(log=log_at, evaluate=evaluate_at, save=save_at, advance=tell.advance),
            log_every=recipe.train.log_every_steps,
            evaluation=Clock(recipe.eval.every_steps or plan.steps_per_epoch(recipe.train.batch_size)),
            checkpoints=Clock(recipe.checkpoint.every_steps, recipe.checkpoint.every_minutes),
        )

    share = plan.share_of_rate(recipe.train, lambda: monitor.share_of_rate(state.watch, rules))
    varied = settle(recipe.data.augment, recipe.data.kind) is not None
    portion = recipe.train.batch_size, recipe.run.seed
    if saved is None:
        evaluate_at(0)  # the baseline: an untrained head
        affordable = plan.steps * recipe.train.batch_size  # a probe costs no more than the training
        if recipe.eval.probe and len(plan.held_out) and affordable:
            named = recipe.eval.metrics
            found = baselines.probe(features_now, plan.training, plan.held_out, plan.tasks, affordable, named)
            tell.scalars("probe", 0, found)
        if varied or mixing is not None:
            words = recipe.data, *portion, plan.members, mixing
            tell.training(batches.seen_in_training(plan.training, source.input_kinds(), *words))
        if recipe.train.on_nan == "rollback":
            save_at(0)
    tell.progress(start, stop)
    step = make_step(penalised(model.step, drawn), state, recipe.run.seed, share, recipe.train.clip_norm)
    last = persistent(train_from, go_back, start)

    # ---- Write the pair, look at it once more, and say what came out.
    final = held_out_now() if len(plan.held_out) else {}
    numbers = metrics(final, recipe.eval.metrics) if final else {}
    write_pair(folder.model, {"step": last, **numbers} if final else {})
    untouched = state.frozen.keys() - {adapter.variable for adapter in model.adapters}
    certificate = digest({name: pretrained[name] for name in untouched})
    for pair in (folder.model, folder.best):
        if pair.exists():
            check_frozen(export.read_back(pair, untouched, state.pieces), certificate)
    earlier = {name: report.first_numbers(folder.path, phase) for name, phase in findings.EARLIER.items()}
    heads = findings.judge(final, recipe.eval.metrics, recipe.run.seed, earlier)
    moved = drift_now() if final else None
    findings.write(folder.path, last, heads, final, plan.held_out.sources, moved)
    best = report.best(state.watch, recipe.eval.metric, folder.best)
    result = findings.sentence(heads, len(plan.held_out), last) + report.best_elsewhere(best, last)
    if last < plan.steps:
        waited = f"{rules.stop_early} evaluations without progress of {recipe.eval.metric}"
        tell.line(f"stopped early at step {last}: {waited}")
    proven = len(untouched & source.start.keys.keys())  # the others have nothing to be identical to
    tell.line(f"frozen: {proven} variables in the pair are bit-identical to the source")
    tell.line(f"pair: {folder.model / 'model.meta'}")
    tell.line(f"result: {result}")
    for line in [*findings.hints(heads), *([moved.told()] if moved else [])]:
        tell.line(line)
    done = {"status": "finished", "step": last, "result": result, "metrics": numbers, "best": best}
    done["intervals"] = findings.intervals(heads)
    run_folder.write_record(folder.path, {**record, **done})
    tell.close()
    return 0
