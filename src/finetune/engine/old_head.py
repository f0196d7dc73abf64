"""The source's own head, on the variables as they are now below the cut and as they were above it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from finetune.engine.compile import as_function, features_program
from finetune.surgery.backbone import default_feeds, make_backbone, mode_feeds
from finetune.surgery.source import Source, read_values

Arguments = Mapping[str, Any]


def make_old_head(source: Source, seed: int, allow_nonfinite: bool, probe: Arguments) -> Callable[[Arguments], Any]:
    """(inputs and variables below the cut, as a program takes them) -> outputs of the source's own head.

    Args:
      source: the pair, cut at its own head.
      probe: such arguments, to run it once on; what they lack keeps the values of the checkpoint.

    Raises:
      UserError: it does not compute with these inputs.
    """
    feeds = mode_feeds({**source.feeds, **default_feeds(source.below, source.feeds, learns=False)}, "eval")
    backbone = make_backbone(source.whole, [source.cut], source.inputs, feeds, tables=source.tables)
    program = as_function(features_program(backbone))
    values = read_values(source, seed, allow_nonfinite)
    above = {key: value for name, value in values.items() if (key := f"variable/{name}") not in probe}

    def outputs(arguments: Arguments) -> Any:
        return program({**above, **arguments})["features"]

    outputs(probe)
    return outputs
