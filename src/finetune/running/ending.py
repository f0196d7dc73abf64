"""The end of a run: the pair, the proof that what was frozen is untouched, and what came out; or before its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from finetune.examples.glimpses import glimpses
from finetune.judging import findings
from finetune.judging.evaluate import metrics
from finetune.learning import monitor
from finetune.pages import page
from finetune.results import run_folder
from finetune.results.card import CARD
from finetune.results.checkpoints import clear, tidy
from finetune.results.report import Report
from finetune.results.run_files import first_numbers
from finetune.results.run_folder import RunFolder
from finetune.running import keeping, looking
from finetune.running.patience import patiently
from finetune.running.session import Session


def finish(session: Session, folder: RunFolder, tell: Report, last: int) -> None:
    """Writes the pair, looks at the held-out examples once more, and says how good it is.

    Raises:
      UserError: what was to be frozen is not what it was.
    """
    recipe, plan = session.recipe, session.plan
    surely = partial(patiently, tell.line, session.interruption.check)  # all that it would go on from is saved
    evaluations = looking.evaluations(session)
    numbers = metrics(evaluations, recipe.eval.metrics) if evaluations else {}
    surely(keeping.write_pair, session, folder.model, {"step": last, **numbers} if numbers else {})
    proven = keeping.prove_frozen(session, folder)

    earlier = {name: first_numbers(folder.path, phase) for name, phase in findings.EARLIER.items()}
    judged = findings.judge(evaluations, recipe.eval.metrics, recipe.run.seed, earlier)
    moved = looking.old_task(session)
    said = findings.content(last, judged, plan.held_out.sources, moved)
    surely(findings.write, folder.path, said, evaluations, plan.held_out.sources)
    best = best_of(session.state.watch, recipe.eval.metric, folder.best)
    result = findings.sentence(judged, len(plan.held_out), last) + best_elsewhere(best, last)

    if last < plan.steps:
        waited = f"{plan.rules.stop_early} evaluations without progress of {recipe.eval.metric}"
        tell.line(f"stopped early at step {last}: {waited}")
    tell.line(f"frozen: {proven} variables in the pair are bit-identical to the source")
    tell.line(f"pair: {folder.model / 'model.meta'}")
    tell.line(f"result: {result}")
    for line in [*findings.hints(judged), *([moved.told()] if moved else [])]:
        tell.line(line)
    for place in (folder.path, folder.checkpoints):  # a disk that was failing may have kept what should have gone
        surely(tidy, place)
    surely(clear, folder.checkpoints, keeping.STEM)
    done = {"status": "finished", "step": last, "result": result, "metrics": numbers, "best": best}
    surely(run_folder.add_to_record, folder.path, {**done, "intervals": findings.intervals(judged)})
    tell.line(page.written(folder.path, partial(glimpses, plan.held_out)))


def give_up(session: Session, folder: RunFolder, tell: Report, last: int) -> None:
    """Leaves a run that was stopped before its end, for others are better: what is saved could go on."""
    best = best_of(session.state.watch, session.recipe.eval.metric, folder.best)
    result = f"pruned at step {last} of {session.stop}, where the median of other runs was better"
    tell.line(result)
    run_folder.add_to_record(folder.path, {"status": "pruned", "step": last, "result": result, "best": best})
    tell.line(page.written(folder.path, partial(glimpses, session.plan.held_out)))


def best_of(watch: monitor.Watch, metric: str, folder: Path) -> dict[str, Any] | None:
    """The step and the value of the best evaluation, and where its pair is; None if there was no evaluation."""
    if watch.best_step < 0:
        return None
    # It holds another where `eval.keep_best` was not always the same, or where a run was killed after a better one and
    # then told to evaluate less often.
    kept = folder.exists() and json.loads((folder / CARD).read_text(encoding="utf-8"))["evaluated"]["step"]
    pair = folder.name if kept == watch.best_step else None
    return {"step": watch.best_step, "metric": metric, "value": watch.best, "pair": pair}


def best_elsewhere(best: Mapping[str, Any] | None, last: int) -> str:
    """What is added to the result of a run whose last evaluation was not its best."""
    if best is None or best["step"] == last:
        return ""
    where = f", whose model is in {best['pair']}/" if best["pair"] else ""
    return f"; the best {best['metric']} was {best['value']:.4g} at step {best['step']}{where}"
