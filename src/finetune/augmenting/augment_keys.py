"""What `data.augment` of a recipe asks for, settled with its preset and with the kind of data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from finetune.errors import UserError
from finetune.names import did_you_mean
from finetune.recipe import Augment

PRESETS: dict[str, dict[str, Any]] = {
    "light": {"flip": True, "crop": [0.5, 1.0]},
    "medium": {"flip": True, "crop": [0.35, 1.0], "colour": 0.2, "erase": 0.1},
    "strong": {"flip": True, "crop": [0.2, 1.0], "rand_augment": {"layers": 2, "magnitude": 9}, "erase": 0.25},
}

_COLOURS = ("brightness", "contrast", "saturation", "hue")
_MASKS = ("mask_time", "mask_frequency")


@dataclass(frozen=True)
class Augmentation:
    """How one example is varied. Probabilities and shares are from 0 to 1, and every 0 means not at all."""

    crop: tuple[float, float] | None = None
    pad_crop: int = 0
    flip: bool = False
    flip_vertical: bool = False
    rotate: float = 0.0
    layers: int = 0
    magnitude: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    erase: float = 0.0
    mask_time: float = 0.0
    mask_frequency: float = 0.0

    @property
    def masks(self) -> bool:
        """Whether rows are varied."""
        return bool(self.mask_time or self.mask_frequency)

    @property
    def changes_images(self) -> bool:
        """Whether images are varied."""
        return replace(self, mask_time=0.0, mask_frequency=0.0) != Augmentation()


def settle(asked: Augment, kind: str) -> Augmentation | None:
    """What is to be done to examples of a `data.kind`; None for nothing.

    Synthetic examples are never varied: they are there to try a recipe that is meant for others.

    Raises:
      UserError: a value that cannot be meant, or a key that such data does not take.
    """
    given = {name: value for name, value in asdict(asked).items() if value is not None}
    preset = given.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        what = f"'{preset}' is not one of {', '.join(PRESETS)}"
        raise UserError("recipe", "data.augment.preset", what, did_you_mean(preset.lower(), PRESETS))
    for name in ["preset"] * (preset is not None) + list(given):
        _refuse_for(kind, name)
    values = {**PRESETS.get(preset or "", {}), **given}
    for name in ("grey", "blur", "erase", *_MASKS):
        _between(name, values.get(name), 0, 1)
    _between("rotate", values.get("rotate"), 0, 180)
    _between("pad_crop", values.get("pad_crop"), 0, math.inf)
    values |= _colours(values.pop("colour", 0.0)) | _layers(values.pop("rand_augment", {"layers": 0}))
    values["crop"] = _crop(values.get("crop"))
    if values["crop"] and values.get("pad_crop"):
        todo = "use pad_crop for small images (with crop=[1,1] beside a preset), crop for photographs"
        raise UserError("recipe", "data.augment.pad_crop", "there is a crop too", todo)
    settled = Augmentation(**values)
    return None if kind == "synthetic" or settled == Augmentation() else settled


def refuse_size(how: Augmentation, size: tuple[int, int]) -> None:
    """Refuses what images of a size are too small for."""
    if how.pad_crop > min(size):
        what = f"{how.pad_crop} is more than an image of {size[0]}×{size[1]} has"
        raise UserError("recipe", "data.augment.pad_crop", what, "e.g. 4")
    if how.layers and min(size) < 3:
        what = f"images of {size[0]}×{size[1]} are too small for it"
        raise UserError("recipe", "data.augment.rand_augment", what, "leave it out")


def _refuse_for(kind: str, name: str) -> None:
    where = f"data.augment.{name}"
    if kind == "arrays" and name not in _MASKS:
        todo = "leave it out; arrays take mask_time and mask_frequency"
        raise UserError("recipe", where, "varies images, and data.kind is arrays", todo)
    if kind == "images" and name in _MASKS:
        raise UserError("recipe", where, f"varies arrays, and data.kind is {kind}", "leave it out; images take erase")


def _between(name: str, value: Any, least: float, most: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and least <= value <= most):
        upto = f"from {least} to {most}" if math.isfinite(most) else f"of {least} or more"
        raise UserError("recipe", f"data.augment.{name}", f"{value!r} is no number {upto}")


def _crop(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    if len(value) != 2 or not 0 < value[0] <= value[1] <= 1:
        what = f"{value} is not [least, most] share of the area, above 0 and up to 1"
        raise UserError("recipe", "data.augment.crop", what, "e.g. [0.35, 1.0]")
    return None if value[0] == 1 else (value[0], value[1])


def _colours(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        value = dict.fromkeys(_COLOURS[:3], value)
    _refuse_unknown("colour", value, _COLOURS)
    for name, share in value.items():
        _between("colour" if len(set(value.values())) == 1 else f"colour.{name}", share, 0, 0.5 if name == "hue" else 1)
    return dict(value)


def _layers(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        todo = "e.g. {layers: 2, magnitude: 9}"
        raise UserError("recipe", "data.augment.rand_augment", f"{value!r} is no mapping", todo)
    _refuse_unknown("rand_augment", value, ("layers", "magnitude"))
    settled = {"layers": 2, "magnitude": 9, **value}
    _between("rand_augment.layers", settled["layers"], 0, math.inf)
    _between("rand_augment.magnitude", settled["magnitude"], 0, 10)
    if settled["layers"] != int(settled["layers"]):
        raise UserError("recipe", "data.augment.rand_augment.layers", f"{settled['layers']} is no whole number")
    return settled if settled["layers"] and settled["magnitude"] else {}


def _refuse_unknown(name: str, value: Mapping[str, Any], known: tuple[str, ...]) -> None:
    strange = [key for key in value if key not in known]
    if strange:
        todo = did_you_mean(str(strange[0]), known) or f"known are {', '.join(known)}"
        raise UserError("recipe", f"data.augment.{name}.{strange[0]}", "unknown key", todo)
