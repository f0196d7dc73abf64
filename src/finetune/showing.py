"""What a pair is, and where it can be cut; nothing is trained.

usage: python -m finetune inspect PATH [options]

  PATH                a folder, a prefix, or any file of a pair, of a SavedModel, or a frozen .pb

options:
      --json          print everything, for programs
      --recipe OUT    write a recipe for the best cut, OUT.yaml, that lacks only the data
      --picture OUT   draw the layers below the cut, OUT.svg
      --phases N      propose N phases that unfreeze it from the cut downwards, in the recipe if one is written
      --cut TENSOR    cut there, and not at the best one

examples:
  python -m finetune inspect vgg16.ckpt
  python -m finetune inspect vgg16.ckpt --recipe mine.yaml --cut fc7 --phases 3
  python -m finetune inspect vgg16.ckpt --picture vgg16.svg
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError, printable, shortlist
from finetune.inspecting.feeding import BATCH_SIZE, Tensor, why_refused
from finetune.inspecting.inspect import Cut, Inspection, Sliced, inspect, sliced
from finetune.inspecting.picture import Caption, draw, note
from finetune.inspecting.repeats import short
from finetune.inspecting.unfreezing import as_yaml, unfreezing
from finetune.names import unused
from finetune.parser import Parser
from finetune.results.checkpoints import write_text

STEPS = 200  # of a new recipe
_LISTED = 8  # of a long list, so that a table fits on a screen
_NAME_WIDTH = 56
_BESIDE = "*"  # other data passes beside the cut
USAGE = "write inspect PATH [--json] [--recipe OUT.yaml] [--picture OUT.svg] [--phases N] [--cut TENSOR]"


def show(words: list[str]) -> int:
    """Prints what a pair is, and writes a recipe for it if asked."""
    options = _options(words)
    found = inspect(options.path, options.cut if options.recipe else None)
    phases = ""
    if options.phases is not None:
        below = sliced(options.path, options.cut or (found.cuts[0].tensor if found.cuts else None))
        phases = as_yaml(unfreezing(below.diagram, options.phases, STEPS))
    if options.recipe and not found.cuts:
        what = "no tensor of the graph depends on both data and variables, so there is nothing to cut"
        raise UserError("source", options.path, what, "name a cut in a recipe of your own")
    if options.recipe:
        _write(Path(options.recipe), recipe(found, options.recipe) + (f"\n{phases}" if phases else ""))
    if options.picture:
        drawing = picture(sliced(options.path, options.cut))
        Path(options.picture).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(options.picture), drawing)
    if phases and not options.recipe:
        print(phases, end="")
        return 0
    print(as_json(found) if options.json else table(found))
    if options.recipe and not options.json:
        print(f"recipe: {printable(options.recipe)}")
    if options.picture and not options.json:
        print(f"picture: {printable(options.picture)}")
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = Parser("inspect", USAGE)
    parser.add_argument("path", metavar="PATH")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--recipe", metavar="OUT.yaml")
    parser.add_argument("--picture", metavar="OUT.svg")
    parser.add_argument("--cut", metavar="TENSOR")
    parser.add_argument("--phases", metavar="N", type=int)
    options = parser.parse_args(words)
    if options.recipe is not None and not options.recipe.endswith((".yaml", ".yml")):
        raise UserError("recipe", "--recipe", f"'{options.recipe}' does not end in .yaml", "recipe= asks for it")
    if options.picture is not None and not options.picture.endswith(".svg"):
        raise UserError("recipe", "--picture", f"'{options.picture}' does not end in .svg", "the picture is one")
    if options.cut is not None and options.picture is None and options.recipe is None and options.phases is None:
        what = "says where a picture or a recipe is cut, and none is asked for"
        raise UserError("recipe", "--cut", what, "add --picture OUT.svg, --recipe OUT.yaml or --phases N")
    if options.phases is not None and options.json:
        raise UserError("recipe", "--phases", "are YAML for a recipe, not JSON", "leave one of the two out")
    return options


def _write(path: Path, text: str) -> None:
    if path.exists():
        raise UserError("recipe", "--recipe", f"'{path}' is there already", "name another file, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def as_json(found: Inspection) -> str:
    """The inspection for programs."""
    fed = found.feeding
    content = {
        "producer": found.producer,
        "inputs": [vars(i) for i in fed.inputs],
        "feeds": [{"tensor": f.tensor, "dtype": f.dtype, "train": f.train, "eval": f.eval} for f in fed.feeds],
        "cuts": [{**vars(c), "bytes_per_example": c.bytes_per_example} for c in found.cuts],
        "variables": [vars(v) for v in found.variables],
        "refused": [vars(r) for r in fed.refused],
        "dropped": [{"op": op, "count": n, "why": why_refused(op)} for op, n in found.dropped.items()],
    }
    return json.dumps(content, indent=2)


def table(found: Inspection) -> str:
    """The inspection for people, about a screen of it."""
    lines = [f"pair: {found.pair.name}, written by {found.producer}"]
    fed = found.feeding
    if found.cuts:
        dead = found.nodes - len(fed.kept)
        lines.append(
            f"graph: {len(fed.kept):,} of {found.nodes:,} nodes are below the first cut, {dead:,} are not needed"
        )
        if found.dropped:
            names = shortlist(list(found.dropped), 4)
            count = sum(found.dropped.values())
            lines.append(f"dropped: {count:,} of these have ops that finetune does not run: {names}")
        rows = [(i.tensor, i.dtype, shape(i)) for i in fed.inputs]
        lines += _section("inputs", rows, "none was found")
        rows = [(f.tensor, f.dtype, _values(f.train, f.eval) + " (a guess)" * f.guessed) for f in fed.feeds]
        lines += _section("feeds", rows, "none is needed")
        rows = [(r.node, f"{r.op} {r.why}".strip()) for r in fed.refused]
        lines += _section("refused below the first cut", rows, "") if rows else []
    rows = [
        (
            c.tensor,
            c.dtype,
            shape(c),
            f"{c.parameters:,}",
            "parameters below",
            *_size(c),
            "" if c.dominates else _BESIDE,
        )
        for c in found.cuts
    ]
    lines += _section("cuts, best first", rows, "none was found", limit=10)
    if not all(c.dominates for c in found.cuts):
        lines.append("  * other data passes beside it on the way to the old output")
    lines += _variables(found)
    return "\n".join(printable(line) for line in lines)


def _variables(found: Inspection) -> list[str]:
    counts = Counter(v.status for v in found.variables)
    lines = ["variables: " + (", ".join(f"{n:,} {_counted(status, n)}" for status, n in counts.items()) or "none")]
    if found.averages:
        count = f"{found.averages:,}"
        lines.append(f"averages: there are moving averages of {count}, source.weights=averages starts from them")
    for status in ("missing", "other shape"):
        lacking = [v.name for v in found.variables if v.status == status]
        below = [name for name in lacking if name in found.feeding.kept]
        if lacking:
            where = f"{shortlist(below, 4)} (below the first cut)" if below else "none of them below the first cut"
            lines.append(f"  {status}: {where}")
    return lines


def picture(found: Sliced) -> str:
    """The layers below the cut, as a recipe that says nothing else would train them: only the head learns."""
    words = [f"{f.tensor} = {json.dumps(f.eval)}" + ", a guess" * f.guessed for f in found.feeds]
    caption = Caption(
        title=f"{found.pair.name} cut at {found.cut.tensor}",
        lines=[f"feeds: {'; '.join(words)}"] if words else [],
        cut=found.cut.tensor,
        given=f"{found.cut.dtype} {shape(found.cut)}",
        head=["head: linear, new", "one output for each class · learns"],
        barred=True,
        note=note(found.unneeded, found.nodes),
    )
    return draw(short(found.diagram), caption)


def shape(tensor: Tensor) -> str:
    """A shape as the reports write it.

    >>> shape(Tensor("x:0", "float32", (None, 28, 28, 1))), shape(Tensor("x:0", "float32", None))
    ('?×28×28×1', 'unknown shape')
    """
    if tensor.shape is None:
        return "unknown shape"
    return "×".join("?" if n is None else str(n) for n in tensor.shape) or "scalar"


def _counted(status: str, count: int) -> str:
    return f"{status}s" if count > 1 and status.endswith(("slot", "shadow")) else status


def _size(cut: Cut) -> tuple[str, str]:
    count = cut.bytes_per_example
    return ("", "") if count is None else (f"{count:,}", "bytes per example")


def _values(train: Any, evaluation: Any) -> str:
    return f"train {json.dumps(train)}, eval {json.dumps(evaluation)}"


def _section(title: str, rows: Sequence[tuple[str, ...]], nothing: str, limit: int = _LISTED) -> list[str]:
    if not rows:
        return [f"{title}: {nothing}"]
    shown = [(_shortened(row[0]), *row[1:]) for row in rows[:limit]]
    columns = [_column(cells) for cells in zip(*shown, strict=True)]
    lines = ["".join(cells) for cells in zip(*columns, strict=True)]
    more = [f"  … ({len(rows)} in all)"] if len(rows) > limit else []
    return [f"{title}:", *(f"  {line}".rstrip() for line in lines), *more]


def _column(cells: Sequence[str]) -> list[str]:
    """Cells of one width; numbers stand at the right, close to their unit."""
    width = max(map(len, cells))
    if any(cells) and all(not cell.strip("0123456789,") for cell in cells):
        return [f"{cell:>{width}} " for cell in cells]
    return [f"{cell:<{width}}  " for cell in cells]


def _shortened(name: str) -> str:
    if len(name) <= _NAME_WIDTH:
        return name
    return f"{name[: _NAME_WIDTH // 2]}…{name[1 - _NAME_WIDTH // 2 :]}"


def recipe(found: Inspection, out: str) -> str:
    """A recipe for the first cut: all but the data is filled in."""
    best, fed = found.cuts[0], found.feeding
    lines = [
        f"# Cut {found.pair.name} at {best.tensor} and train a new head on its features.",
        "#",
        f"#   python -m finetune recipe={out} data.path=…",
        "#",
        f"# To try it without data: python -m finetune recipe={out} data.kind=synthetic head.classes=3 train.steps=3",
        *(f"# Refused as it stands: {r.node}: {r.op} {r.why}" for r in fed.refused),
        "",
        "source:",
        f"  path: {_quoted(str(found.pair.meta.absolute()))}",
    ]
    fields = _fields(fed.inputs)
    if fields:
        lines.append("  inputs:")
        lines += [f"    {name}: {_quoted(i.tensor)}  # {i.dtype}, {shape(i)}" for name, i in fields.items()]
    if fed.feeds:
        lines.append("  feeds:  # the source is frozen: it is run as in evaluation, in training too")
        for feed in fed.feeds:
            why = "a guess: look at it" if feed.guessed else f"{json.dumps(feed.train)} where the source learns"
            lines.append(f"    {_quoted(feed.tensor)}: {json.dumps(feed.eval)}  # {why}")
    others = [c.tensor for c in found.cuts[1:4]]
    lines += [
        "",
        f"cut: {_quoted(best.tensor)}  # {best.dtype}, {shape(best)}",
        *([f"# other cuts: {', '.join(others)}"] if others else []),
        "stop_gradient: true",
        "",
        "data:",
        *_data_hint(list(fields.items())),
        "  preprocess: none  # what the source was trained with: vgg, caffe, inception, torch, unit or none",
        "",
        "train:",
        f"  steps: {STEPS}",
        f"  batch_size: {fed.batch_size or BATCH_SIZE}" + "  # baked into the source" * bool(fed.batch_size),
    ]
    return "\n".join(printable(line) for line in lines) + "\n"


def _data_hint(fields: Sequence[tuple[str, Tensor]]) -> list[str]:
    sizes = [i.shape for _, i in fields]
    if len(sizes) == 1 and sizes[0] and len(sizes[0]) == 4 and sizes[0][-1] in (1, 3):
        return ["  # path: a folder with one folder of images per class"]
    names = ", ".join(name for name, _ in fields)
    return ["  # kind: arrays", f"  # path: a .npz file with the arrays {names} and labels"]


def _fields(inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The inputs by the last word of their names."""
    found: dict[str, Tensor] = {}
    for tensor in inputs:
        word = re.sub(r"\W", "_", tensor.tensor.removesuffix(":0").rpartition("/")[2])
        found[unused(word if word[:1].isalpha() else f"input_{word}", found)] = tensor
    return found


def _quoted(text: str) -> str:
    """Text as YAML and OmegaConf take it, whatever is in it."""
    return json.dumps(text.replace("${", "\\${"), ensure_ascii=False)
