from __future__ import annotations

import struct

import numpy as np
import pytest
import tensorflow as tf

from finetune.examples.headers import Header, read_header

PIXELS = np.zeros((5, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (lambda: tf.io.encode_png(PIXELS), Header("PNG", 7, 5, "RGB", 8)),
        (lambda: tf.io.encode_png(PIXELS[..., :1].astype(np.uint16)), Header("PNG", 7, 5, "grey", 16)),
        (lambda: tf.io.encode_png(np.zeros((5, 7, 4), np.uint8)), Header("PNG", 7, 5, "RGB with alpha", 8)),
        (lambda: tf.io.encode_jpeg(PIXELS), Header("JPEG", 7, 5, "RGB", 8)),
        (lambda: tf.io.encode_jpeg(PIXELS, progressive=True), Header("JPEG", 7, 5, "RGB", 8)),
        (lambda: tf.io.encode_jpeg(PIXELS[..., :1], format="grayscale"), Header("JPEG", 7, 5, "grey", 8)),
    ],
)
def test_what_tensorflow_wrote(content, header: Header):
    assert read_header(content().numpy()) == header


def test_other_formats():
    bmp = b"BM" + bytes(16) + struct.pack("<iiHH", 7, -5, 1, 24)
    assert read_header(bmp) == Header("BMP", 7, 5, "RGB", 8)
    cmyk = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0\x00\x11" + struct.pack(">BHHB", 8, 5, 7, 4)
    assert read_header(cmyk) == Header("JPEG", 7, 5, "CMYK", 8)


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\x00\x11\x08", b"BM", b"GIF89a"]
)
def test_what_has_no_header(content: bytes):
    assert read_header(content) is None
