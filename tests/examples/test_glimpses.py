from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from finetune.examples.data import Examples, from_arrays
from finetune.examples.fields import ragged
from finetune.examples.glimpses import SIDE, glimpses

RANDOM = np.random.default_rng(2)


def arrays(**fields: object) -> Examples:
    return from_arrays(fields, {"labels": np.arange(3)}, "here")  # type: ignore[arg-type]


def decoded(shown: dict[str, str]) -> np.ndarray:
    head, _, content = shown["image"].partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return tf.io.decode_image(base64.b64decode(content)).numpy()


def files(folder: Path, *images: np.ndarray) -> Examples:
    names = []
    for number, image in enumerate(images):
        names.append(str(folder / f"{number}.png"))
        Path(names[-1]).write_bytes(tf.io.encode_png(image).numpy())
    return Examples(names, {}, [""] * len(names))


def test_a_small_file_keeps_its_pixels_and_a_large_one_its_proportions(tmp_path: Path):
    small = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    large = np.full((400, 200, 3), (200, 100, 50), np.uint8)
    found = glimpses(files(tmp_path, small, large), [0, 1])
    assert np.array_equal(decoded(found[0]), small)
    assert found[1]["image"].startswith("data:image/jpeg")
    made = decoded(found[1])
    assert made.shape == (SIDE, SIDE // 2, 3)
    assert np.abs(made.astype(int) - (200, 100, 50)).max() < 8


def test_a_file_that_is_gone_or_damaged_is_passed_over(tmp_path: Path):
    examples = files(tmp_path, *(np.zeros((9, 9, 3), np.uint8),) * 3)
    Path(examples.sources[0]).unlink()
    Path(examples.sources[1]).write_bytes(b"no image")
    assert list(glimpses(examples, [0, 1, 2])) == [2]


@pytest.mark.parametrize("scale", ["bytes", "ones", "around zero"])
def test_arrays_of_images_are_seen_whatever_their_range(scale: str):
    wanted = RANDOM.integers(0, 256, (3, 10, 12, 1), dtype=np.uint8)
    wanted[:, 0, 0], wanted[:, 0, 1] = 0, 255
    given = {"bytes": wanted, "ones": wanted / np.float32(255), "around zero": wanted / np.float32(127.5) - 1}[scale]
    found = glimpses(arrays(images=given), [2])
    assert np.array_equal(decoded(found[2])[..., 0], wanted[2, ..., 0])


def test_other_rows_are_told_in_words():
    codes = ragged([np.arange(n) for n in (3, 40, 5)], np.dtype(np.int32))
    text = np.array(["short", "<b>&", "é" * 500], object)
    found = glimpses(arrays(codes=codes, text=text), [0, 1, 2])
    assert found[0] == {"text": "codes: 0 1 2; text: short"}
    assert found[1] == {"text": "codes: 0 1 2 3 4 5 6 7 8 9 10 11 … (40 values); text: <b>&"}
    assert len(found[2]["text"]) == 160
    assert glimpses(arrays(x=np.array([[0.123456, 2], [3, 4], [5, np.nan]], np.float32)), [0, 2]) == {
        0: {"text": "0.1235 2"},
        2: {"text": "5 nan"},
    }


def test_encoded_images_in_rows_are_images():
    picture = tf.io.encode_png(np.full((9, 9, 3), 7, np.uint8)).numpy()
    found = glimpses(arrays(image=np.array([picture, b"plain", b"\x89PNGbad"], object)), [0, 1, 2])
    assert np.all(decoded(found[0]) == 7)
    assert found[1] == {"text": "plain"}
    assert "text" in found[2]
