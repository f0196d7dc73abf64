"""Looks at the held-out examples: how good the heads are, what the baselines reach, how far the old task has moved."""

from __future__ import annotations

from typing import Any

from finetune.examples.data import Examples
from finetune.judging import baselines
from finetune.judging.drift import Drift, drift
from finetune.judging.evaluate import Evaluation, evaluate
from finetune.running.session import Session


def evaluations(session: Session) -> dict[str, Evaluation]:
    """What each head says of the held-out examples now; nothing where none are held out."""
    held_out, state = session.plan.held_out, session.state
    if not len(held_out):
        return {}
    forward = lambda inputs, targets: session.model.forward(state.arguments(inputs, targets))  # noqa: E731
    return evaluate(forward, session.in_order(held_out), session.plan.tasks, len(held_out))


def probe(session: Session) -> dict[str, float]:
    """The metrics of a linear probe of the features as they are now; nothing where the recipe wants none."""
    plan, asked = session.plan, session.recipe.eval
    affordable = plan.steps * session.recipe.train.batch_size  # it costs no more than the training
    if not (asked.probe and len(plan.held_out) and affordable):
        return {}

    def features(examples: Examples) -> dict[str, Any]:
        rows = session.in_order(examples)
        given = (session.state.arguments(inputs, {}) for inputs, _, _ in rows)
        return baselines.collect(map(session.model.features, given), len(examples))

    return baselines.probe(features, session.to_learn_from(), plan.held_out, plan.tasks, affordable, asked.metrics)


def old_task(session: Session) -> Drift | None:
    """How far the old head's answers have moved; None where the recipe names no old head."""
    plan, old_head = session.plan, session.old_head
    if old_head is None or plan.old_head is None or not len(plan.held_out):
        return None
    before = {f"variable/{name}": value for name, value in session.pretrained.items()}
    now = {f"variable/{name}": value for name, value in session.merged(session.state.judged()).items()}
    taken = session.in_order_as_they_are(plan.held_out)
    given = (session.state.arguments(inputs, {}) for inputs, _, _ in taken)
    rows = ({"before": old_head({**g, **before}), "after": old_head({**g, **now})} for g in given)
    return drift(plan.old_head.cut, **baselines.collect(rows, len(plan.held_out)))
