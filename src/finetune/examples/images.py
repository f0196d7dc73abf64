"""From an encoded image to what the model takes, varied where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune.augmenting.augment import augment
from finetune.augmenting.augment_keys import Augmentation, refuse_size
from finetune.examples import preprocess
from finetune.recipe import Data


def image_reader(
    channels: int, size: tuple[int, int], data: Data, how: Augmentation | None, dtype: Any
) -> Callable[..., Any]:
    """(the bytes of an image, a seed where it is to be varied) -> [*size, channels] as the source's input takes it.

    Raises:
      UserError: such images are too small for what is asked.
    """
    if how is not None:
        refuse_size(how, size)

    def read(content: Any, seed: Any = None) -> Any:
        image = preprocess.decode(content, channels)
        variation = None if seed is None else how
        if data.eval_crop is not None and (variation is None or variation.crop is None):
            image = preprocess.centred(image, size, data.eval_crop)
        if variation is not None:
            image = augment(image, seed, size, variation)
        return preprocess.prepare(image, size, data.preprocess, dtype)

    return read
