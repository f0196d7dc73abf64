"""Makes the audio demo: a TensorFlow-1 pair that tells waveforms apart, and sung vowels that it has never heard.

    python scripts/make_sounds.py --out src/finetune/demo/sounds

Every sound is synthesised here and nothing is recorded: half a second of harmonics at 8 kHz, with a gliding pitch and
noise. The source says which of six waveforms it hears. The examples of the new task are vowels: a buzz through three
resonances at the frequencies that Peterson and Barney (1952) measured in men, for vocal tracts of other lengths too.
Written anew on one machine it comes out the same byte for byte; takes a minute.

Input: `spectrograms:0`, float32 [n, 24, 32, 1], frames and mel bands in 0..255: 255 is the loudest band of a sound and
0 is 60 dB below it, or less. Features: `features:0`, [n, 48].
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1

RATE, WINDOW, HOP, FRAMES, BANDS = 8000, 512, 160, 24, 32
SAMPLES = WINDOW + HOP * (FRAMES - 1)
DECIBELS = 60

HARMONICS = np.arange(1, 51)
WAVEFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # how strong their harmonics are
    "organ": lambda k: np.isin(k, (1, 2, 4, 8)) / 1.0,
    "pulse": lambda k: np.ones(len(k)),
    "sawtooth": lambda k: 1 / k,
    "sine": lambda k: (k == 1) / 1.0,
    "square": lambda k: k % 2 / k,
    "triangle": lambda k: k % 2 / k**2,
}
FORMANTS = {  # hertz; the phonetic alphabet has ɑ, ɛ, i, ɔ and u for them
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
BANDWIDTHS = (80, 100, 140)

WIDTHS = (8, 16, 24)
WIDTH = 48
STEPS, BATCH, SEED = 500, 32, 13
EXAMPLES = 280


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo pair that tells waveforms apart, and its examples.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder that is empty or not there")
    out = parser.parse_args().out
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} is not empty; remove it first")
    tf1.disable_eager_execution()
    tf1.disable_resource_variables()
    tf.config.experimental.enable_op_determinism()
    make_pair(out)
    spectrograms, vowels = sounds(np.random.default_rng([SEED, 1]), EXAMPLES, sorted(FORMANTS))
    np.savez_compressed(out / "vowels.npz", spectrograms=spectrograms, vowel=np.array(sorted(FORMANTS))[vowels])


# ---- sounds


def sounds(draw: np.random.Generator, count: int, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Spectrograms uint8 [n, FRAMES, BANDS, 1] of waveforms or vowels, and which of `names` each is."""
    kinds = draw.integers(0, len(names), count)
    return np.stack([spectrogram(sound(draw, names[kind])) for kind in kinds])[..., np.newaxis], kinds


def sound(draw: np.random.Generator, name: str) -> np.ndarray:
    """A waveform or a vowel at a pitch of its own, in noise; float64 [SAMPLES]."""
    pitch = draw.uniform(90, 300) * 2 ** (draw.uniform(-0.3, 0.3) * np.linspace(0, 1, SAMPLES))
    tract = draw.uniform(0.85, 1.2)
    harmonics = HARMONICS[HARMONICS * pitch.max() < RATE / 2]
    fixed = name in WAVEFORMS
    strength = WAVEFORMS[name](harmonics) if fixed else vowel(np.outer(pitch, harmonics), FORMANTS[name], tract)
    angles = 2 * np.pi * np.outer(np.cumsum(pitch) / RATE, harmonics) + draw.uniform(0, 2 * np.pi, len(harmonics))
    tone = (strength * np.sin(angles)).sum(axis=1) * np.hanning(SAMPLES) ** draw.uniform(0.1, 1)
    noise = draw.normal(size=SAMPLES) * 10 ** (-draw.uniform(0, 20) / 20)
    return tone / tone.std() + noise


def vowel(frequencies: np.ndarray, formants: tuple[int, ...], tract: float) -> np.ndarray:
    """How strong the harmonics of a voice are at these frequencies, behind a vocal tract shorter by `tract`."""
    strength = 100 / frequencies
    for centre, width in zip(formants, BANDWIDTHS, strict=True):
        resonance = centre * tract
        strength = strength * resonance**2 / np.hypot(resonance**2 - frequencies**2, width * frequencies)
    return strength


def spectrogram(wave: np.ndarray) -> np.ndarray:
    """uint8 [FRAMES, BANDS]: 255 is the loudest, 0 is `DECIBELS` below it."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2 @ mel_bands()
    decibels = 10 * np.log10(power / power.max() + 1e-12)
    return np.round(np.clip(1 + decibels / DECIBELS, 0, 1) * 255).astype(np.uint8)


def mel_bands() -> np.ndarray:
    """Triangles that overlap by half, equally wide in mel from 60 Hz up; float64 [WINDOW // 2 + 1, BANDS]."""
    mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(mel(60), mel(RATE / 2), BANDS + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, np.newaxis]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)


# ---- the pair


def layer(x: Any, name: str, width: int) -> Any:
    kernel = tf1.get_variable(
        f"{name}/kernel", [3, 3, x.shape[-1], width], initializer=tf1.variance_scaling_initializer(2.0)
    )
    bias = tf1.get_variable(f"{name}/bias", [width], initializer=tf1.zeros_initializer())
    return tf1.nn.relu(tf1.nn.bias_add(tf1.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding="SAME"), bias), name=name)


def dense(x: Any, name: str, width: int) -> Any:
    kernel = tf1.get_variable(f"{name}/kernel", [x.shape[-1], width], initializer=tf1.variance_scaling_initializer(2.0))
    bias = tf1.get_variable(f"{name}/bias", [width], initializer=tf1.zeros_initializer())
    return tf1.nn.bias_add(tf.matmul(x, kernel), bias, name=name)


def make_pair(folder: Path) -> None:
    """Trains the source and saves it into `folder`."""
    with tf.Graph().as_default(), tf1.Session(config=tf1.ConfigProto(device_count={"GPU": 0})) as session:
        tf1.set_random_seed(SEED)
        spectrograms = tf1.placeholder(tf.float32, [None, FRAMES, BANDS, 1], name="spectrograms")
        waveforms = tf1.placeholder(tf.int64, [None], name="waveforms")
        x = spectrograms / 255
        for number, width in enumerate(WIDTHS, start=1):
            x = layer(x, f"conv{number}", width)
            x = tf1.nn.max_pool(x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME", name=f"pool{number}")
        over_time = tf1.reduce_mean(x, 1)  # frames, but not bands: where the energy is says what sounds
        flat = tf1.reshape(over_time, [-1, over_time.shape[1] * over_time.shape[2]])
        features = tf1.nn.relu(dense(flat, "dense", WIDTH), name="features")
        logits = dense(features, "waveform", len(WAVEFORMS))
        loss = tf1.losses.sparse_softmax_cross_entropy(waveforms, logits)
        right = tf1.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), waveforms), tf.float32), name="accuracy")
        step = tf1.train.get_or_create_global_step()
        train = tf1.train.MomentumOptimizer(0.02, 0.9).minimize(loss, global_step=step)
        saver = tf1.train.Saver()

        def feeds(draw: np.random.Generator, count: int) -> dict[Any, Any]:
            heard, kinds = sounds(draw, count, sorted(WAVEFORMS))
            return {spectrograms: heard, waveforms: kinds}

        session.run(tf1.global_variables_initializer())
        for number in range(STEPS):
            session.run(train, feeds(np.random.default_rng([SEED, 2, number]), BATCH))
        accuracy = session.run(right, feeds(np.random.default_rng([SEED, 3]), 1000))
        print(f"accuracy {accuracy:.3f} on 1000 other sounds")
        folder.mkdir(parents=True, exist_ok=True)
        # Saver.save orders the attributes of a node by chance and writes the time of day into `checkpoint`.
        saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False, write_state=False)
        (folder / "model.ckpt.meta").write_bytes(saver.export_meta_graph().SerializeToString(deterministic=True))
        (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n', encoding="utf-8")


if __name__ == "__main__":
    main()
