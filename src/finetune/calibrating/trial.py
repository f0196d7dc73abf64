"""One setting at work, in a process of its own: it computes a batch of a run whenever it is told to, and says how long.

    python -m finetune.calibrating.trial recipe=RECIPE.yaml [key=value …]

What TensorFlow reads while it is loaded is in the environment. It speaks in lines of JSON: one when it has compiled
and run twice, and one for each line that it is given. It ends when there are no more.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

from finetune.calibrating.work import Work, job
from finetune.check import check
from finetune.compose import compose
from finetune.errors import UserError
from finetune.plan import Plan, make_plan
from finetune.recipe import Recipe
from finetune.start import onednn_is_on, start_tensorflow
from finetune.surgery.source import read_values


def main(words: list[str]) -> None:
    """Runs until stdin ends."""
    # Whatever the code of a recipe prints, what is said here stays apart from it.
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    recipe = compose(words).recipe
    check(recipe)
    plan = make_plan(recipe)
    start_tensorflow()
    import tensorflow as tf

    work = job(recipe, plan)
    run = runner(recipe, plan, work)
    run()  # compiles
    found = {"onednn": onednn_is_on(), "gpus": len(tf.config.list_physical_devices("GPU")), "work": asdict(work)}
    print(json.dumps({**found, "times": run()}), file=told, flush=True)
    for _ in sys.stdin:
        print(json.dumps(run()), file=told, flush=True)


def runner(recipe: Recipe, plan: Plan, work: Work) -> Callable[[], dict[str, float]]:
    """A function that computes a first batch and gives the seconds of its forward pass and of a training step.

    Where nothing of the source learns there is no step to be measured, and where a step is all there is, no forward
    pass. Of several phases it is the one in which most variables learn.
    """
    from finetune.engine.compile import as_function, features_program
    from finetune.examples import batches
    from finetune.running.session import open_session

    phase = max(plan.phases, key=lambda phase: len(phase.variants.moving()) + len(phase.variants.adapters))
    values = read_values(plan.source, recipe.run.seed, recipe.source.allow_nonfinite)
    session = open_session(recipe, replace(plan, phases=(replace(phase, last=None),)), values)
    functions: dict[str, Callable[[], object]] = {}
    if work.forwards:
        backbone = phase.variants.evaluation
        compute = as_function(features_program(backbone), [f"features/{cut}" for cut in plan.source.cuts])
        given = batches.probe(plan.training, session.loaders[0], plan.portion, values)
        functions["forward"] = lambda: [features.numpy() for features in compute(given).values()]
    if work.steps:
        step = session.step_with(None)
        inputs, targets, _ = next(session.training_batches(0, 1))
        functions["step"] = lambda: float(step(1, inputs, targets)["gradient_norm"])

    def run() -> dict[str, float]:
        seconds = {"forward": 0.0, "step": 0.0}
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name] = time.perf_counter() - began
        return seconds

    return run


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
