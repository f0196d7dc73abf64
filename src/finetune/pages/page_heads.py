"""What a page says of one head: how good it is, beside what, where it errs, and on which examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from finetune.examples.tasks import NUMBERS
from finetune.judging.intervals import wilson
from finetune.judging.metrics import LESS_IS_BETTER
from finetune.pages.axes import exact
from finetune.pages.hardest import hardest
from finetune.pages.markup import Content, Markup, folded, table, tag
from finetune.pages.plots import Point, Row, Series, chart, histogram, rows
from finetune.results.run_files import RunFiles

_MATRIX = 16  # classes of a matrix that is shown whole
_ROWS = 40  # of a table of classes; beyond it the weakest stay in sight
_CURVES = 6  # in one figure
_OUTPUTS = 6  # of a head of numbers that are drawn
_BLUE, _ORANGE = "0 114 178", "213 94 0"

Head = Mapping[str, Any]  # one of evaluation.json


def section(run: RunFiles, name: str, head: Head, is_alone: bool) -> Markup:
    """All that is known of a head on the held-out examples."""
    prefix = "" if is_alone else f"{name}/"
    return tag(
        "section",
        tag("h2", "Held-out examples" if is_alone else f"Held-out examples: {name}", id=f"head-{name}"),
        tag("div", _against(head), _metrics(head, run.evaluation["examples"]), class_="tables"),
        tag("div", _confusion(head), _by_class(head), class_="tables"),
        _figures(run, prefix, head),
        _examples(run, prefix, head),
    )


def value(given: float | None, low: float | None = None, high: float | None = None) -> str:
    """A number, and its interval.

    >>> value(0.92063, 0.86, 0.9563), value(None)
    ('0.921 (0.860 to 0.956)', '–')
    """
    if given is None:
        return "–"
    return exact(given) if low is None or high is None else f"{exact(given)} ({exact(low)} to {exact(high)})"


def _metrics(head: Head, examples: int) -> Markup:
    names = [*dict.fromkeys(metric for found in head["baselines"].values() for metric in found)]
    kinds = list(head["baselines"])
    lines = [
        [
            f"{name}\u00a0{'↓' if name in LESS_IS_BETTER else '↑'}",
            value(**{"given": metric["value"], "low": metric["low"], "high": metric["high"]}),
            *(value(head["baselines"][kind].get(name)) if name in names else "" for kind in kinds),
        ]
        for name, metric in head["metrics"].items()
    ]
    caption = f"On {examples:,} examples, with 95 % intervals; ↑ more is better, ↓ less. Baselines at the right."
    return table(["metric", "this model", *kinds], lines, caption, numbers=range(1, 2 + len(kinds)))


def _against(head: Head) -> Markup:
    main = head["main"]
    metric = head["metrics"][main]
    given = [Row("this model", metric["value"], metric["low"], metric["high"])] if metric["value"] is not None else []
    given += [Row(kind, found[main]) for kind, found in head["baselines"].items() if found.get(main) is not None]
    better = "less" if main in LESS_IS_BETTER else "more"
    return rows(f"{main} beside baselines", given, f"{main} ({better} is better; shaded: where this model's may lie)")


def _confusion(head: Head) -> Markup | None:
    matrix, classes = head["confusion"], head["classes"]
    if matrix is None and not head["mistakes"]:
        return None
    title = tag("h3", "Who is taken for whom")
    if matrix is None or len(classes) > _MATRIX:
        lines = [[pair["is"], pair["taken_for"], f"{pair['examples']:,}"] for pair in head["mistakes"]]
        worst = f"The most frequent mistakes; there are {len(classes)} classes."
        return tag("section", title, table(["is", "taken for", "examples"], lines, worst, numbers=[2]))
    heads = [tag("th", "is \\ taken for", scope="col"), *(tag("th", name, scope="col") for name in classes)]
    body = [
        tag("tr", tag("th", name, scope="row"), [_cell(count, sum(line), i == j) for j, count in enumerate(line)])
        for i, (name, line) in enumerate(zip(classes, matrix, strict=True))
    ]
    caption = "Rows are what is, columns what it is taken for; bold where it is right; shares are of the row."
    whole = tag(
        "table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", body), class_="confusion"
    )
    return tag("section", title, tag("div", whole, class_="wide"))


def _cell(count: int, of: int, is_right: bool) -> Markup:
    share = count / of if of else 0.0
    tint = f"background: rgb({_BLUE if is_right else _ORANGE} / {0.5 * share:.2f})" if count else None
    return tag("td", f"{count:,}", tag("small", f"{share:.0%}"), class_="right" if is_right else None, style=tint)


def _by_class(head: Head) -> Markup | None:
    classes = head["by_class"]
    if not classes:
        return None
    weakest = sorted(classes, key=lambda found: (found["f1"] is None, found["f1"] or 0.0))
    order = weakest if len(classes) > _ROWS else classes
    titles = ["class", "examples", "recall", "precision", "F1"]
    lines = [
        [found["class"], f"{found['support']:,}", _recall(found), _precision(found), value(found["f1"])]
        for found in order
    ]
    caption = "With 95 % intervals of shares (Wilson)" + ("; the weakest first." if order is weakest else ".")
    more = folded(f"all {len(lines)} classes", table(titles, lines[_ROWS:], numbers=range(1, 5)))
    shown = table(titles, lines[:_ROWS], caption, numbers=range(1, 5))
    return tag("section", tag("h3", "By class"), shown, more if len(lines) > _ROWS else None)


def _recall(found: Mapping[str, Any]) -> str:
    return value(found["recall"], *(wilson(found["recall"], found["support"]) if found["support"] else ()))


def _precision(found: Mapping[str, Any]) -> str:
    precision, recall = found["precision"], found["recall"]
    hits = (recall or 0.0) * found["support"]
    # Where nothing was right, nobody wrote down how often the class was named.
    return value(precision, *(wilson(precision, round(hits / precision)) if precision and hits else ()))


def _figures(run: RunFiles, prefix: str, head: Head) -> Markup | None:
    found = [*_calibration(head), *_roc(head), *_numbers(run, prefix, head)]
    return tag("div", found, class_="figures") if any(found) else None


def _calibration(head: Head) -> list[Markup]:
    bins = head["calibration"]
    if not bins:
        return []
    points = [(each["confidence"], each["right"]) for each in bins]
    spans = [wilson(each["right"], each["examples"]) for each in bins]
    count = sum(each["examples"] for each in bins)
    error = sum(each["examples"] * abs(each["confidence"] - each["right"]) for each in bins) / count
    series = [Series("", points, "held", is_line=False, has_dots=True, spans=spans)]
    title = f"Calibration (expected error {error:.3f})"
    return [chart(title, series, "probability that it says", "share that is right", is_square=True)]


def _roc(head: Head) -> list[Markup]:
    there = [(name, curve) for name, curve in (head["curves"] or {}).items() if curve]
    series = [
        Series(
            name,
            [(0.0, 0.0), *((point["false_positive_rate"], point["recall"]) for point in curve), (1.0, 1.0)],
            f"s{number}",
        )
        for number, (name, curve) in enumerate(there[:_CURVES])
    ]
    title = "ROC of " + (there[0][0] if len(there) == 1 else f"{len(series)} of {len(there)} classes") if there else ""
    return [chart(title, series, "false positive rate", "recall", is_square=True)] if series else []


def _numbers(run: RunFiles, prefix: str, head: Head) -> list[Markup]:
    """Of heads of numbers: what was said over what is, and how far off it was, for each output."""
    outputs: Sequence[Sequence[Point]] = head["pairs"] or []
    found = []
    for number, pairs in enumerate(outputs[:_OUTPUTS]):
        which = f" {number} of {len(outputs)}" if len(outputs) > 1 else ""
        points = [(is_, said) for is_, said in pairs]
        series = [Series("", points, "dots", is_line=False, has_dots=True)]
        found.append(chart(f"Output{which}: said over is", series, "what is", "what was said", is_square=True))
        found.append(histogram(f"Output{which}: residuals", _residuals(run, prefix, number), "said minus is"))
    return found


def _residuals(run: RunFiles, prefix: str, number: int) -> list[float]:
    both = zip(run.predictions.get(f"{prefix}label", ()), run.predictions.get(f"{prefix}prediction", ()), strict=True)
    return [float(said.split()[number]) - float(is_.split()[number]) for is_, said in both]


def _examples(run: RunFiles, prefix: str, head: Head) -> list[Markup]:
    found = []
    for what, lines in hardest(run.predictions, prefix, head["loss"]).items():
        if not lines:
            continue
        items = [_example(run, prefix, head, line) for line in lines]
        found.append(tag("section", tag("h3", what.capitalize()), tag("ul", items, class_="examples")))
    return found


def _example(run: RunFiles, prefix: str, head: Head, line: int) -> Markup:
    told = {key: run.predictions[f"{prefix}{key}"][line] for key in ("label", "prediction", "probability", "loss")}
    name = run.predictions["id"][line]
    short = f"row {name}" if name.isdigit() else "/".join(PurePath(name).parts[-2:])
    sure = f" ({float(told['probability']):.2f})" if _is_number(told["probability"]) else ""
    if head["loss"] in NUMBERS:
        words: Content = f"is {told['label']}, said {told['prediction']}"
    elif told["label"] == told["prediction"]:
        words = f"✓ {told['label']}{sure}"
    else:
        words = f"✗ is {told['label']}, taken for {told['prediction']}{sure}"
    return tag("li", _glimpse(run, line, short), words, tag("br"), tag("span", short, class_="grey", title=name))


def _glimpse(run: RunFiles, line: int, name: str) -> Markup | None:
    shown = run.glimpses.get(line, {})
    if image := shown.get("image", ""):
        return tag("img", src=image, alt=name, class_="pixels" if image.startswith("data:image/png") else None)
    return tag("q", shown["text"]) if shown.get("text") else None


def _is_number(text: str) -> bool:
    return bool(text) and " " not in text
