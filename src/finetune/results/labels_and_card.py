"""What is written beside a pair for those who use it: the labels, and the card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from finetune.engine.graft import Model
from finetune.examples.batches import image_geometry
from finetune.graph import dtype_name
from finetune.plan import Plan
from finetune.recipe import Recipe
from finetune.results.card import CARD
from finetune.surgery.backbone import mode_feeds


def beside_the_pair(plan: Plan, model: Model, recipe: Recipe, evaluated: Mapping[str, float]) -> dict[str, str]:
    """Files that tell a stranger how to use the pair: the labels, what goes in and comes out, and how good it is.

    Args:
      evaluated: the step of its evaluation and what that gave; empty if there was none.
    """
    kinds = plan.source.input_kinds()
    as_images = recipe.data.kind == "images"
    channels, size = None, recipe.data.image_size
    if as_images:
        ((_, shape),) = kinds.values()
        channels, size = image_geometry(shape, size)
    card = {
        "inputs": dict(model.inputs),
        "takes": {field: {"dtype": dtype_name(dtype), "shape": shape} for field, (dtype, shape) in kinds.items()},
        "preprocess": recipe.data.preprocess if as_images else None,
        "image_size": size,
        "channels": channels,
        "eval_crop": recipe.data.eval_crop,
        "feeds": mode_feeds(model.feeds, "eval"),
        "cut": plan.source.cut,
        "heads": {
            task.name: {
                "loss": task.loss,
                "classes": list(task.classes),
                "outputs": {"logits": f"{task.name}/logits:0", graft.loss.output: f"{task.name}/{graft.loss.output}:0"},
            }
            for task, graft in zip(plan.tasks, model.grafts, strict=True)
        },
        "evaluated": {name: value if math.isfinite(value) else None for name, value in evaluated.items()},
    }
    with_classes = [task for task in plan.tasks if task.classes]
    labels = {
        "labels.txt" if len(with_classes) == 1 else f"labels.{task.name}.txt": "".join(f"{c}\n" for c in task.classes)
        for task in with_classes
    }
    return {**labels, CARD: json.dumps(card, indent=2, ensure_ascii=False) + "\n"}
