"""One page for several runs: a table of what differs between them and what came out, and their curves in one figure."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finetune.judging.metrics import LESS_IS_BETTER, chosen
from finetune.pages.markup import Content, Markup, folded, table, tag
from finetune.pages.page import PAGE, document
from finetune.pages.page_curves import best_of, points
from finetune.pages.page_heads import value
from finetune.pages.page_made import took
from finetune.pages.plots import Series, chart
from finetune.recipe import Recipe
from finetune.recipe_files import flat
from finetune.results.checkpoints import write_text
from finetune.results.run_files import RunFiles, read

_KEYS = 6  # that differ and have a column each; more of them have a table of their own
_CURVES = 6  # runs in one figure
_LETTERS = 28  # of a value in a column
_NOTHING = "None of them has been evaluated yet."
_NAME = 16  # letters of a curve's name
_DIGITS = 8  # a number of more of them is shown by four that say something
_NO_CHOICE = ("run.dir",)
_NO_SCALE = ("run.seed",)  # more of it is not more of anything
_FAR = {"finished": "", "pruned": ",\u00a0pruned"}


def write(folders: Sequence[Path], out: Path, beneath: Content = None, title: str = "") -> Path:
    """Writes the page of several runs; gives its file."""
    write_text(out, page([read(folder) for folder in folders], out.parent, beneath, title))
    return out


def page(runs: Sequence[RunFiles], place: Path, beneath: Content = None, title: str = "") -> str:
    """The page as text of an HTML file, the best run first.

    Args:
      place: the folder that the page will lie in, from which it refers to the pages of the runs.
      beneath: what is to stand under the table.
    """
    order = sorted(runs, key=rank)
    metrics = list(dict.fromkeys(name for run in order for name in results(run)))
    keys = differing(order)
    counted = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    shown = keys if len(keys) <= _KEYS else []
    is_all = bool(shown) and all(len(_said(run, key)) <= _LETTERS for run in order for key in keys)
    first = list(dict.fromkeys(next(iter(results(run)), "") for run in order))
    sorted_by = f"Sorted by {', '.join(filter(None, first))}, the best first."
    body = [
        tag("h1", title or counted),
        tag("p", f"{counted}. " if title else None, sorted_by if metrics else _NOTHING),
        _table(order, metrics, shown, place) if order else None,
        beneath,
        folded(f"what differs between the recipes: {_counted(keys)}", _choices(order, keys)) if not is_all else None,
        _figures([*_curves(order, metrics, keys), *_over_choices(order, metrics, keys)]),
    ]
    return document(title or counted, body)


def results(run: RunFiles) -> dict[str, Mapping[str, float | None]]:
    """The metric to remember of each head: {value, low, high}; of a run without an end the newest there is."""
    heads = run.evaluation.get("heads", {})
    if run.is_finished and heads:
        named = {head: f"{head}/" if len(heads) > 1 else "" for head in heads}
        return {f"{named[head]}{found['main']}": found["metrics"][found["main"]] for head, found in heads.items()}
    newest = next(reversed(run.of_phase("eval")), {})
    mains = main_metrics(run.recipe)
    return {name: {"value": newest[name], "low": None, "high": None} for name in mains if name in newest}


def main_metrics(recipe: Mapping[str, Any]) -> list[str]:
    """The metric to remember of each head of a recipe, which has dotted keys, as evaluations name it.

    >>> main_metrics({"head.loss": "softmax"}), main_metrics({"heads.a.loss": "squared", "eval.metrics": ["mae"]})
    (['accuracy'], ['a/mae'])
    """
    losses = {key.removesuffix(".loss"): loss for key, loss in recipe.items() if key.endswith(".loss")}
    several = {key.removeprefix("heads."): loss for key, loss in losses.items() if key.startswith("heads.")}
    asked = recipe.get("eval.metrics") or []
    alone = [chosen(asked, losses.get("head", "softmax"))[0]]
    return [f"{head}/{chosen(asked, loss)[0]}" for head, loss in several.items()] or alone


def differing(runs: Sequence[RunFiles]) -> list[str]:
    """The keys of the recipes that are not the same in all; a key that a recipe lacks has its default."""
    defaults = flat(asdict(Recipe()))
    keys = dict.fromkeys(key for run in runs for key in run.recipe if key not in _NO_CHOICE)
    return [key for key in keys if len({_said(run, key, defaults) for run in runs}) > 1]


def yardstick(run: RunFiles) -> tuple[str, float] | None:
    """What runs are compared by, the first metric, and its value in this one; None where it has none, or no number."""
    name, metric = next(iter(results(run).items()), ("", {"value": None}))
    value = metric["value"]
    return None if value is None or not math.isfinite(value) else (name, value)


def less_is_better(metric: str) -> bool:
    """Whether runs with less of a metric come first."""
    return metric.rpartition("/")[2] in LESS_IS_BETTER


def rank(run: RunFiles) -> tuple[bool, bool, str, float, float, str]:
    """By the first metric, of equals by the best evaluation; what was pruned, or has no number, comes last."""
    found, best, is_pruned = yardstick(run), best_of(run), run.record.get("status") == "pruned"
    tie = _signed(best["metric"], best["value"]) if best else 0.0
    if found is None:
        return True, is_pruned, "", 0.0, tie, run.name
    return False, is_pruned, found[0], _signed(*found), tie, run.name


def _signed(metric: str, value: float) -> float:
    return value if less_is_better(metric) else -value


def _table(runs: Sequence[RunFiles], metrics: Sequence[str], keys: Sequence[str], place: Path) -> Markup:
    # Where the runs have different heads, a column for each metric would be nearly empty.
    are_alike = all(list(results(run)) == metrics for run in runs)
    head = ["run", *(tag("code", key) for key in keys), *(map(_arrowed, metrics) if are_alike else ["result"])]
    lines = []
    for run in runs:
        found = {name: value(*metric.values()) for name, metric in results(run).items()}
        named = list(found.values()) if are_alike else [_lines(f"{_arrowed(name)} {it}" for name, it in found.items())]
        far = f"{run.step:,}{_FAR.get(run.record.get('status', ''), ' so far')}"
        chosen = [_cropped(_said(run, key)) for key in keys]
        lines.append([_link(run, place), *chosen, *named, _best(run), far, took(run), _baselines(run)])
    first = 1 + len(keys)
    numbers = range(first, first + len(metrics)) if are_alike else ()
    caption = "With 95 % intervals; ↑ more is better, ↓ less." if metrics else ""
    return table([*head, "best", "steps", "time", "baselines"], lines, caption, numbers)


def _arrowed(metric: str) -> str:
    return f"{metric}\u00a0{'↓' if less_is_better(metric) else '↑'}"


def _counted(keys: Sequence[str]) -> str:
    return "nothing" if not keys else "1 key" if len(keys) == 1 else f"{len(keys)} keys"


def _cropped(text: str) -> Content:
    shown = _short(text)
    shown = shown if len(shown) <= _LETTERS else f"{shown[: _LETTERS - 1]}…"
    return text if shown == text else tag("span", shown, title=text)


def _lines(texts: Iterable[str]) -> Content:
    return [tag("div", text, class_="line-of-cell") for text in texts]


def _baselines(run: RunFiles) -> Content:
    there = [
        (kind, found.get(head["main"]))
        for head in run.evaluation.get("heads", {}).values()
        for kind, found in head["baselines"].items()
    ]
    return _lines(f"{kind} {value(found)}" for kind, found in there if found is not None)


def _best(run: RunFiles) -> Content:
    best = best_of(run)
    return _lines([f"{best['metric']} {value(best['value'])} at step {best['step']:,}"] if best else [])


def _link(run: RunFiles, place: Path) -> Content:
    there = run.path / PAGE
    if not there.is_file():
        return run.name
    return tag("a", run.name, href=quote(Path(os.path.relpath(there.resolve(), place.resolve())).as_posix()))


def _choices(runs: Sequence[RunFiles], keys: Sequence[str]) -> Markup:
    return table(["key", *(run.name for run in runs)], [[tag("code", k), *(_said(r, k) for r in runs)] for k in keys])


def _said(run: RunFiles, key: str, defaults: Mapping[str, Any] | None = None) -> str:
    given = _given(run, key, defaults)
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _given(run: RunFiles, key: str, defaults: Mapping[str, Any] | None = None) -> Any:
    return run.recipe.get(key, (flat(asdict(Recipe())) if defaults is None else defaults).get(key))


def _called(run: RunFiles, keys: Sequence[str]) -> str:
    """What a run is called in a figure: by what differs, where that is little, for folders are named by digests.

    >>> from types import SimpleNamespace
    >>> _called(SimpleNamespace(name="a-1f", recipe={"run.seed": 3}), ["run.seed"])
    'seed 3'
    """
    told = [_short(_said(run, key)) for key in keys]
    named = [f"{key.rpartition('.')[2]} {it}" for key, it in zip(keys, told, strict=True)]
    texts = [text for text in (", ".join(named), ", ".join(told)) if 0 < len(text) <= _LETTERS]
    return next((text for text in texts if len(text) <= _NAME), texts[-1] if texts else run.name)


def _short(text: str) -> str:
    """A number that was found by a search, with the digits that say something."""
    try:
        return f"{float(text):.4g}" if len(text) > _DIGITS else text
    except ValueError:
        return text


def _figures(figures: Sequence[Markup]) -> Markup | None:
    return tag("div", figures, class_="figures") if any(figures) else None


def _curves(runs: Sequence[RunFiles], metrics: Sequence[str], keys: Sequence[str]) -> list[Markup]:
    figures = []
    for metric in metrics:
        drawn = [(run, found) for run in runs if (found := points(run.of_phase("eval"), metric))]
        there = drawn[:_CURVES]
        named = [_called(run, keys) for run, _ in there]
        series = [Series(name, found, f"s{n}") for n, (name, (_, found)) in enumerate(zip(named, there, strict=True))]
        more = f" of {there[0][0].name}" if len(there) == 1 else f" of the first {_CURVES}" * (len(drawn) > _CURVES)
        figures.append(chart(f"{metric}{more}", series, "step", may_be_log=True))
    return figures


def _over_choices(runs: Sequence[RunFiles], metrics: Sequence[str], keys: Sequence[str]) -> list[Markup]:
    """The first metric over each number that differs."""
    figures = []
    for key in (key for key in keys if metrics and key not in _NO_SCALE):
        numbers = [_given(run, key) for run in runs]
        if not all(isinstance(at, (int, float)) and not isinstance(at, bool) for at in numbers):
            continue
        found = [(run, at, results(run).get(metrics[0], {})) for run, at in zip(runs, numbers, strict=True)]
        whole = [(at, v) for run, at, it in found if run.is_finished and (v := it.get("value")) is not None]
        others = [(at, v) for run, at, it in found if not run.is_finished and (v := it.get("value")) is not None]
        ends = [
            (low, high)
            for run, _, it in found
            if run.is_finished and (low := it.get("low")) is not None and (high := it.get("high")) is not None
        ]
        spans = ends if len(ends) == len(whole) else ()
        series = [
            Series("finished" * bool(others), whole, "s0", is_line=False, has_dots=True, spans=spans),
            Series("not to the end", others, "s1", is_line=False, has_dots=True),
        ]
        figures.append(chart(f"{metrics[0]} by {key}", series, key, is_over_choices=True))
    return figures
