"""What lies beside a finished pair for those who use it: `model.json`, and how to read it.

Nothing here imports TensorFlow, so that a folder that is no model is refused at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import UserError

CARD = "model.json"


@dataclass(frozen=True)
class Images:
    """How an image becomes the input: its middle, or all of it, resized to `size` and scaled by a preset."""

    size: tuple[int, int]  # height and width
    channels: int
    preprocess: str
    crop: float | None = None  # the share of the sides that is looked at


@dataclass(frozen=True)
class HeadCard:
    """What a head gives: its tensors by what they are, and the names of its classes, none if it gives numbers."""

    loss: str
    classes: tuple[str, ...]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Card:
    """What goes into a finished pair and what comes out; `images` is None where arrays go in."""

    inputs: Mapping[str, str]  # field -> tensor
    images: Images | None
    feeds: Mapping[str, Any]  # mode feeds with their evaluation values
    heads: Mapping[str, HeadCard]

    def outputs(self) -> dict[str, str]:
        """Every output -> its tensor; with several heads each is named after its own."""
        named = {(head, kind): tensor for head, h in self.heads.items() for kind, tensor in h.outputs.items()}
        return {output_name(self, head, kind): tensor for (head, kind), tensor in named.items()}


def output_name(card: Card, head: str, kind: str) -> str:
    """What an output of a head is called where the model is used."""
    return kind if len(card.heads) == 1 else f"{head}/{kind}"


def read_card(folder: Path) -> Card:
    """The card of a finished pair.

    Raises:
      UserError: there is none, or it is none of ours.
    """
    path = folder / CARD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        preprocess = content["preprocess"]
        size, channels = content["image_size"], content["channels"]
        images = None
        if preprocess is not None:
            crop = content.get("eval_crop")  # no key where none was known of
            shape = (int(size[0]), int(size[1]))
            images = Images(shape, int(channels), str(preprocess), None if crop is None else float(crop))
        heads = {n: HeadCard(h["loss"], tuple(h["classes"]), h["outputs"]) for n, h in content["heads"].items()}
        return Card(content["inputs"], images, content["feeds"], heads)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise UserError("recipe", str(path), what, "name a run folder, or the model folder in it") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        what = f"this is no card of a finished pair ({type(error).__name__}: {error})"
        raise UserError("recipe", str(path), what, "train once more with this version of finetune") from None
