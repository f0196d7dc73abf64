from __future__ import annotations

import pytest

from finetune.augmenting.augment_keys import PRESETS, Augmentation, settle
from finetune.errors import UserError
from finetune.recipe import Augment


def test_nothing_asked_for_is_nothing():
    assert settle(Augment(), "images") is None
    assert settle(Augment(flip=False, crop=[1.0, 1.0], colour=0.0, rand_augment={"layers": 0}), "images") is None


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_in_what_is_not_given(preset: str):
    whole = settle(Augment(preset=preset), "images")
    assert whole is not None
    assert whole.flip
    assert whole.crop == tuple(PRESETS[preset]["crop"])
    changed = settle(Augment(preset=preset, flip=False, crop=[0.9, 1.0], grey=0.1), "images")
    assert changed is not None
    assert (changed.flip, changed.crop, changed.grey) == (False, (0.9, 1.0), 0.1)
    assert (changed.layers, changed.brightness, changed.erase) == (whole.layers, whole.brightness, whole.erase)


def test_a_number_for_colours_means_all_but_the_hue():
    assert settle(Augment(colour=0.2), "images") == Augmentation(brightness=0.2, contrast=0.2, saturation=0.2)
    assert settle(Augment(colour={"hue": 0.1}), "images") == Augmentation(hue=0.1)


def test_rand_augment_has_the_usual_values():
    assert settle(Augment(rand_augment={}), "images") == Augmentation(layers=2, magnitude=9)
    assert settle(Augment(preset="strong", rand_augment={"layers": 0}), "images") == settle(
        Augment(flip=True, crop=[0.2, 1.0], erase=0.25), "images"
    )


def test_synthetic_examples_are_never_varied():
    assert settle(Augment(preset="strong", mask_time=0.1), "synthetic") is None


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (
            Augment(preset="Strong"),
            "images",
            "preset: 'Strong' is not one of light, medium, strong; did you mean strong",
        ),
        (Augment(flip=True), "arrays", "flip: varies images, and data.kind is arrays; leave it out; arrays take"),
        (Augment(preset="light"), "arrays", "preset: varies images, and data.kind is arrays"),
        (Augment(mask_time=0.1), "images", "mask_time: varies arrays, and data.kind is images"),
        (Augment(crop=[0.5]), "images", r"crop: \[0.5\] is not \[least, most\] share"),
        (Augment(crop=[0.0, 1.0]), "images", r"crop: \[0.0, 1.0\] is not"),
        (Augment(crop=[0.9, 0.5]), "images", r"crop: \[0.9, 0.5\] is not"),
        (Augment(crop=[0.5, 1.0], pad_crop=4), "images", "pad_crop: there is a crop too"),
        (Augment(preset="light", pad_crop=4), "images", r"pad_crop: there is a crop too; .* crop=\[1,1\]"),
        (Augment(pad_crop=-1), "images", "pad_crop: -1 is no number of 0 or more"),
        (Augment(rotate=200.0), "images", "rotate: 200.0 is no number from 0 to 180"),
        (Augment(grey=1.5), "images", "grey: 1.5 is no number from 0 to 1"),
        (Augment(blur=float("nan")), "images", "blur: nan is no number from 0 to 1"),
        (Augment(colour="high"), "images", "colour: 'high' is no number from 0 to 1"),
        (Augment(colour=True), "images", "colour: True is no number from 0 to 1"),
        (Augment(colour={"hue": 0.7, "contrast": 0.1}), "images", "colour.hue: 0.7 is no number from 0 to 0.5"),
        (Augment(colour={"saturaton": 0.1}), "images", "colour.saturaton: unknown key; did you mean saturation"),
        (Augment(rand_augment=2), "images", "rand_augment: 2 is no mapping; e.g."),
        (Augment(rand_augment={"layers": 1.5}), "images", "rand_augment.layers: 1.5 is no whole number"),
        (Augment(rand_augment={"magnitude": 11}), "images", "rand_augment.magnitude: 11 is no number from 0 to 10"),
        (Augment(rand_augment={"ops": 2}), "images", "rand_augment.ops: unknown key; known are layers, magnitude"),
        (Augment(mask_time=1.1), "arrays", "mask_time: 1.1 is no number from 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: Augment, kind: str, message: str):
    with pytest.raises(UserError, match=f"data.augment.{message}"):
        settle(asked, kind)
