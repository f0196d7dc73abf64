"""The story of one run: a pair in, a fine-tuned pair out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

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
    from finetune.engine.graft import graft, pair_graph
    from finetune.engine.heads import initial_values
    from finetune.engine.proof import prove
    from finetune.engine.rows import check_sizes
    from finetune.learning import batches
    from finetune.learning.evaluate import Evaluation, evaluate, metrics
    from finetune.learning.find_rate import STEPS, rate_at, sweep
    from finetune.learning.state import check_frozen, digest, make_state
    from finetune.learning.train import Actions, Clock, loop, make_step
    from finetune.results import export, rates, report
    from finetune.surgery import doubts

    # ---- Graft: source and head become pure functions of inputs and variables.
    pretrained = read_values(source, recipe.run.seed, recipe.source.allow_nonfinite)
    load_training = batches.make_loader(plan.training, source.input_kinds(), recipe.data)
    load_held_out = batches.make_loader(plan.held_out, source.input_kinds(), recipe.data)
    probe = partial(batches.probe, plan.training, load_training, plan.portion, pretrained)
    sized = check_sizes(source, plan.phases.evaluation, plan.phases.feeds, probe()) if source.is_resized else []
    model = graft(plan.phases, plan.heads, plan.tasks, probe, train.precision, train.xla)

    # ---- init from the source, or resume from our own last save.
    fresh = initial_values(model.new_variables, recipe.run.seed)
    state = make_state({**pretrained, **fresh}, model.rates, model.updated, source.pieces(), recipe.train)
    if find_rate:
        tried = lambda number: rate_at(number) / train.learning_rate  # noqa: E731
        step = make_step(model.step, state, recipe.run.seed, tried, train.clip_norm, train.accumulate)
        given = batches.training_batches(plan.training, load_training, 0, STEPS, train.batch_size, recipe.run.seed)
        for line in rates.write(folder.path, sweep(lambda number: step(number, *next(given)[:2])["loss"])):
            print(line)
        return 0
    certificate = digest({name: pretrained[name] for name in state.frozen})
    saved = checkpoints.load_newest(folder.checkpoints, STEM, state.keys())
    start = 0 if saved is None else saved.step
    stop = max(start, plan.steps)
    if saved is not None:
        state.restore(saved.values)

    # ---- Proof of load: these are the checkpoint's bits, and they give the features that the unsliced graph gives.
    proof = None
    if saved is None:
        inputs = batches.first_inputs(plan.training, load_training, source.probe_size)
        proof = prove(source, plan.phases, state.variables(), inputs)

    # ---- The run folder, and the first lines of what is told.
    run_folder.prepare(folder, recipe_yaml)
    record = folder.record or {
        **run_folder.provenance(plan, recipe.run.seed, overrides, proof),
        **report.variable_record(plan, model),
    }
    run_folder.write_record(folder.path, {**record, "status": "running"})
    tell = report.open_report(folder.path, saved)
    tell.line(report.first_line(folder.path, source.pair.prefix, STEM, saved))
    warnings = doubts.warnings(source, plan.phases.evaluation, pretrained)
    numerics = report.numerics(train, model, len(state.averages), started)
    for line in [*report.opening(plan, model, saved, started, proof), *numerics, *sized, *warnings]:
        tell.line(line)
    meta = pair_graph(source, model)
    if not (folder.checkpoints / f"{STEM}.meta").exists():  # the same at every save, so it is written once
        tell.graph(meta)
        tell.hparams(recipe)
        checkpoints.write_text(folder.path / report.PICTURE, report.picture(plan, model))
        checkpoints.write_bytes(folder.checkpoints / f"{STEM}.meta", meta.SerializeToString())

    # ---- Train.
    def held_out_now() -> dict[str, Evaluation]:
        size = recipe.eval.batch_size or plan.portion
        held_out = batches.evaluation_batches(plan.held_out, load_held_out, size, whole=source.batch_size is not None)
        forward = lambda inputs, targets: model.forward(state.arguments(inputs, targets))  # noqa: E731
        return evaluate(forward, held_out, plan.tasks, len(plan.held_out))

    def evaluate_at(step: int) -> None:
        if len(plan.held_out):
            found = held_out_now()
            tell.scalars("eval", step, metrics(found))
            tell.predictions(step, plan.held_out, found, batches.pictures)

    def save_at(step: int) -> None:
        check_frozen(state.frozen, certificate)
        retention = checkpoints.Retention(recipe.checkpoint.keep, recipe.checkpoint.keep_every_hours)
        tensors = state.everything(step)
        checkpoints.save(folder.checkpoints, f"{STEM}-{step}", tensors, state.pieces, retention, time.time())
        tell.line(f"saved step {step}")

    def log_at(step: int, found: Mapping[str, float]) -> None:
        changing = {} if share is None else {"learning_rate": recipe.train.learning_rate * share(step)}
        tell.scalars("train", step, {**found, **changing})

    share = plan.share_of_rate(train)
    if saved is None:
        evaluate_at(0)  # the baseline: an untrained head
    tell.progress(start, stop)
    loop(
        make_step(model.step, state, recipe.run.seed, share, train.clip_norm, train.accumulate, train.ema),
        batches.training_batches(plan.training, load_training, start, stop, recipe.train.batch_size, recipe.run.seed),
        start,
        stop,
        Actions(log=log_at, evaluate=evaluate_at, save=save_at, advance=tell.advance),
        log_every=recipe.train.log_every_steps,
        evaluation=Clock(recipe.eval.every_steps or plan.steps_per_epoch(recipe.train.batch_size)),
        checkpoints=Clock(recipe.checkpoint.every_steps, recipe.checkpoint.every_minutes),
    )

    # ---- Write the pair, look at it once more, and say what came out.
    beside = report.beside_the_pair(plan, model, recipe)
    export.write_pair(folder.model, meta, state.judged(), state.pieces, beside)
    written = export.read_back(folder.model, state.frozen, state.pieces)
    check_frozen(written, certificate)
    final = held_out_now() if len(plan.held_out) else None
    result = report.result(plan, final, folder.path)
    proven = len(state.frozen.keys() & source.start.keys.keys())  # the others have nothing to be identical to
    tell.line(f"frozen: {proven} variables in the pair are bit-identical to the source")
    tell.line(f"pair: {folder.model / 'model.meta'}")
    tell.line(f"result: {result}")
    done = {"status": "finished", "step": stop, "result": result, "metrics": metrics(final) if final else {}}
    run_folder.write_record(folder.path, {**record, **done})
    tell.close()
    return 0
