"""What a page says of how a model came to be: what learned, the proofs, what was asked, and how to make it again."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.pages.markup import Markup, facts, folded, table, tag
from finetune.pages.page_heads import value
from finetune.results.run_files import PICTURE, RunFiles
from finetune.results.run_folder import RECIPE

_LARGEST = 500_000  # bytes of a picture of the graph that goes into the page
_PROVING = ("proof: ", "frozen: ")  # of the log's lines
_TOLD = ("warning: ", "hint: ", "rollback ", "stopped early ", "plateau: ", "old head: ")


def learned(run: RunFiles) -> Markup | None:
    """Which variables learned, which did not and why, and the layers as a picture."""
    variables: Mapping[str, Mapping[str, Any]] = run.record.get("variables", {})
    if not variables:
        return None
    sizes = {name: math.prod(found["shape"]) for name, found in variables.items()}
    learning = [name for name, found in variables.items() if found["rate"]]
    new = [name for name, found in variables.items() if found["start"] == "new"]
    total, count = sum(sizes.values()), sum(sizes[name] for name in learning)
    frozen = len(variables) - len(learning)
    said = (
        f"{count:,} of {total:,} values learn{' in the last phase' if run.record.get('phases') else ''}: "
        f"{len(learning)} variables, {len(new)} of them new. {frozen} are frozen. "
        f"{len(run.record.get('not_below_the_cut', []))} of the checkpoint are not below the cut."
    )
    share = 100 * count / total if total else 0.0
    bar = tag(
        "div",
        tag("span", class_="learns", style=f"width: {share:.2f}%"),
        tag("span", class_="frozen", style=f"width: {100 - share:.2f}%"),
        class_="shares",
        role="img",
        aria_label=f"{share:.1f} % of the values learn, {100 - share:.1f} % are frozen",
    )
    lines = []
    for name, found in variables.items():
        shape = "×".join(map(str, found["shape"])) or "scalar"
        row = [tag("code", name), shape, f"{sizes[name]:,}", found["start"], f"{found['rate']:.4g}", found["why"]]
        lines.append(row)
    titles = ["variable", "shape", "values", "starts from", "rate", "what becomes of it"]
    listed = folded(f"all {len(variables)} variables", table(titles, lines, numbers=[2, 4]))
    return tag(
        "section", tag("h2", "What learned", id="learned"), tag("p", said), bar, _phases(run), listed, _graph(run)
    )


def _phases(run: RunFiles) -> Markup | None:
    lines = [
        [name, f"{found['began']:,}", f"{len(found['learns'])}", f"{len(found['updated'])}"]
        for name, found in run.record.get("phases", {}).items()
    ]
    titles = ["phase", "after step", "variables that learn", "and are updated without gradients"]
    return table(titles, lines, numbers=[1, 2, 3]) if lines else None


def _graph(run: RunFiles) -> Markup | None:
    if not run.picture:
        return None
    if len(run.picture) > _LARGEST:
        return tag("p", "The layers are drawn in ", tag("a", PICTURE, href=PICTURE), ".")
    # As an image its style is its own, and no program in it would run.
    data = "data:image/svg+xml;base64," + base64.b64encode(run.picture).decode()
    alt = "The layers from the inputs to the cut: what is frozen, what learns, and the gradient barriers"
    return folded("the layers as a picture", tag("img", src=data, alt=alt, class_="graph"))


def proofs(run: RunFiles) -> Markup | None:
    """Proof of load and of frozenness, and how far the source's own head has moved."""
    lines = _lines(run, _PROVING)
    moved = run.evaluation.get("old_head")
    if not lines and not moved:
        return None
    drift = None
    if moved:
        agreement = moved["agreement"]
        told = f"The source's own head {moved['tensor']} on {moved['examples']:,} held-out examples, before and after:"
        drifted = [("agrees with itself", "–" if agreement is None else f"{agreement:.1%}")]
        drifted += [("divergence", value(moved["divergence"])), ("difference", f"{moved['difference']:.4g}")]
        drift = tag("section", tag("h3", "Old task"), tag("p", told), facts(drifted))
    return tag(
        "section",
        tag("h2", "Proof", id="proof"),
        tag("ul", [tag("li", line.removeprefix("proof: ")) for line in lines]) if lines else None,
        drift,
    )


def remarks(run: RunFiles) -> Markup | None:
    """What the run itself warned of, or did unasked."""
    lines = _lines(run, _TOLD[:-1])
    return tag("ul", [tag("li", line) for line in lines]) if lines else None


def _lines(run: RunFiles, beginnings: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(line for line in run.log if line.startswith(beginnings)))


def made(run: RunFiles) -> Markup:
    """What was asked, by which versions on which machine it was made, and the command that makes it again."""
    record = run.record
    data, machine = record.get("data", {}), record.get("machine", {})
    command = ["python", "-m", "finetune", *record.get("overrides", [])]
    stored = Path(str(run.recipe.get("run.dir") or run.name)) / RECIPE
    anew = ["python", "-m", "finetune", f"recipe={stored}", "run.dir=runs/again"]
    rows = [
        ("Source", record.get("source", "")),
        ("Cut", str(run.recipe.get("cut") or "")),
        ("Data", f"{data['training']:,} to train on, {data['held_out']:,} held out" if data else ""),
        ("Seed", str(record.get("seed", ""))),
        ("Began", record.get("started", "").replace("T", " ")),
        ("Trained for", took(run)),
        ("Machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}" if machine else ""),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())),
    ]
    digests = [
        [tag("code", name), key, tag("code", digest)]
        for key, found in record.get("digests", {}).items()
        for name, digest in found.items()
    ]
    return tag(
        "section",
        tag("h2", "How it was made", id="made"),
        facts([(name, told) for name, told in rows if told]),
        tag("h3", "To repeat it"),
        tag("p", "The command that made it; where the run is finished, it says so and does nothing:"),
        tag("pre", shlex.join(command)),
        tag("p", "Anew, from the recipe as it was composed:"),
        tag("pre", shlex.join(anew)),
        folded("the recipe with every key", tag("pre", run.recipe_yaml)) if run.recipe_yaml else None,
        folded("digests (SHA-256)", table(["what", "key", "digest"], digests)) if digests else None,
    )


def took(run: RunFiles) -> str:
    """How long it trained, in words.

    >>> from types import SimpleNamespace
    >>> took(SimpleNamespace(seconds=3725.0))
    '1 h 2 min'
    """
    seconds = round(run.seconds)
    if seconds < 120:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"
