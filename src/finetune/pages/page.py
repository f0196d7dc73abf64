"""The page of one run: `report.html` in its folder, one file that any browser shows without a network or a server.

It is a function of the files of the run folder alone: no clock, no machine, the same bytes each time. Beside it lies
`examples.json`, what some held-out examples look like, so that the page can be made again where the data is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from finetune.errors import printable
from finetune.pages import page_heads, page_made
from finetune.pages.hardest import hardest
from finetune.pages.markup import Content, Markup, tag
from finetune.pages.page_curves import best_of, curves
from finetune.results.checkpoints import write_text
from finetune.results.run_files import GLIMPSES, RunFiles, read

PAGE = "report.html"
_STYLE = Path(__file__).with_name("page.css")

Glimpses = Callable[
    [Sequence[int]], Mapping[int, Mapping[str, str]]
]  # places of held-out examples -> what they look like


def written(folder: Path, glimpses: Glimpses | None = None) -> str:
    """Writes the page at the end of a run; gives the line that says where it is.

    A page that cannot be written is no reason to lose a run: the line says why, then.
    """
    try:
        return f"report: {write(folder, glimpses)}"
    except Exception as error:  # a bug of the page must not cost anybody a night of training
        return f"report: none, for it cannot be written ({type(error).__name__}: {printable(str(error))})"


def write(folder: Path, glimpses: Glimpses | None = None, out: Path | None = None) -> Path:
    """Writes the page of a run folder into it, or to `out`; gives the file.

    Args:
      glimpses: looks at the held-out examples; without it those that were looked at before are shown.
    """
    run = read(folder)
    if glimpses is not None:
        shown = glimpses(_worth_seeing(run))
        text = json.dumps({str(line): shown[line] for line in sorted(shown)}, indent=1, ensure_ascii=False)
        write_text(folder / GLIMPSES, text + "\n")
        run = read(folder)
    place = out or folder / PAGE
    write_text(place, page(run))
    return place


def _worth_seeing(run: RunFiles) -> list[int]:
    heads = run.evaluation.get("heads", {})
    found = [
        hardest(run.predictions, f"{name}/" if len(heads) > 1 else "", head["loss"]) for name, head in heads.items()
    ]
    return sorted({line for kinds in found for lines in kinds.values() for line in lines})


def page(run: RunFiles) -> str:
    """The page of a run, finished or not, as text of an HTML file."""
    heads = run.evaluation.get("heads", {})
    sections: list[Content] = [
        curves(run),
        *(page_heads.section(run, name, head, len(heads) == 1) for name, head in heads.items()),
        page_made.learned(run),
        page_made.proofs(run),
        page_made.made(run),
    ]
    return document(run.name, [*_headline(run), _contents(run), *sections])


def document(title: str, body: Content) -> str:
    """A whole HTML file that loads nothing and runs nothing, as its policy tells the browser."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', body)), lang='en')}\n"


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def _headline(run: RunFiles) -> list[Content]:
    source = Path(run.record.get("source", "")).name
    about = [
        f"recipe {run.recipe.get('name')}" if run.recipe.get("name") else "",
        f"source {source}" if source else "",
        f"cut at {run.recipe['cut']}" if run.recipe.get("cut") else "",
        f"began {run.record['started'][:16].replace('T', ' ')}" if "started" in run.record else "",
        f"{run.step:,} steps in {page_made.took(run)}" if run.log else "",
    ]
    return [
        tag("h1", run.name),
        tag("p", result(run), class_="result"),
        tag("p", " · ".join(word for word in about if word), class_="grey"),
        page_made.remarks(run),
    ]


def result(run: RunFiles) -> str:
    """The sentence to remember of a run, or how far it has come."""
    if run.is_finished or run.record.get("status") == "pruned":
        return str(run.record.get("result", ""))
    asked = run.recipe.get("train.steps")
    far = f"Not finished: step {run.step:,}" + (f" of {asked:,}" if isinstance(asked, int) else "")
    best = best_of(run)
    return far + (
        f"; the best {best['metric']} so far is {best['value']:.4g}, at step {best['step']:,}" if best else ""
    )


def _contents(run: RunFiles) -> Markup:
    heads = list(run.evaluation.get("heads", {}))
    named = {f"head-{name}": "Held-out examples" if len(heads) == 1 else name for name in heads}
    places = {
        **({"curves": "Curves"} if run.entries else {}),
        **named,
        **({"learned": "What learned"} if run.record.get("variables") else {}),
        **({"proof": "Proof"} if page_made.proofs(run) else {}),
        "made": "How it was made",
    }
    return tag("nav", [tag("a", name, href=f"#{place}") for place, name in places.items()], aria_label="Contents")
