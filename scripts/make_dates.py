"""Makes the text demo: a recurrent TensorFlow-1 pair that reads dates, and dates to tell languages by.

    python scripts/make_dates.py --out src/finetune/demo/dates

The source reads a written date, character by character, and says which month it is; dates are in four languages, which
it is never told. The examples of the new task are other dates, labelled with their language. All of it is made here
from the names of the months. Written anew on one machine it comes out the same byte for byte; takes a minute on two
cores.

Input: `characters:0`, int32 [n, time], places in `CHARACTERS` from 1, 0 behind the end; `lengths:0`, int32 [n].
Features: `state:0`, [n, 64], the state of the LSTM (Hochreiter and Schmidhuber 1997) at each date's last character.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1

NAMES = {
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "en": "January February March April May June July August September October November December",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
}
MONTHS = {language: names.split() for language, names in NAMES.items()}
CHARACTERS = sorted({*"".join("".join(names) for names in MONTHS.values()), *"0123456789. ,de"})
WIDTH, EMBEDDED = 64, 16
STEPS, BATCH, SEED = 1500, 64, 11
EXAMPLES = 400


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo pair that reads dates, and its examples.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder that is empty or not there")
    out = parser.parse_args().out
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} is not empty; remove it first")
    tf1.disable_eager_execution()
    tf1.disable_resource_variables()
    tf1.disable_control_flow_v2()
    tf.config.experimental.enable_op_determinism()
    make_pair(out)
    texts, _, languages = dates(np.random.default_rng([SEED, 1]), EXAMPLES)
    characters, lengths = as_numbers(texts)
    np.savez_compressed(out / "languages.npz", characters=characters, lengths=lengths, language=np.array(languages))


def dates(draw: np.random.Generator, count: int) -> tuple[list[str], np.ndarray, list[str]]:
    """Dates as people write them, the month of each from 0, and its language."""
    texts, months, languages = [], draw.integers(0, 12, count), []
    for month in months:
        language = str(draw.choice(sorted(MONTHS)))
        day, year, name = draw.integers(1, 29), draw.integers(1950, 2030), MONTHS[language][month]
        written = {"de": f"{day}. {name}", "es": f"{day} de {name} de", "fr": f"{day} {name}"}
        english = f"{name} {day}," if draw.random() < 0.5 else f"{day} {name}"
        texts.append(f"{written.get(language, english)} {year}")
        languages.append(language)
    return texts, months, languages


def as_numbers(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """int32 [n, time] places of the characters from 1, filled up with 0, and int32 [n] lengths."""
    lengths = np.array([len(text) for text in texts], np.int32)
    characters = np.zeros((len(texts), lengths.max()), np.int32)
    for row, text in enumerate(texts):
        characters[row, : len(text)] = [1 + CHARACTERS.index(character) for character in text]
    return characters, lengths


def lstm(steps: Any, lengths: Any) -> Any:
    """The state at each row's last step; steps are [time, n, EMBEDDED]."""
    kernel = tf1.get_variable(
        "lstm/kernel", [EMBEDDED + WIDTH, 4 * WIDTH], initializer=tf1.glorot_uniform_initializer()
    )
    bias = tf1.get_variable("lstm/bias", [4 * WIDTH], initializer=tf1.zeros_initializer())
    rows = tf.shape(steps)[1]
    inputs = tf.TensorArray(tf.float32, tf.shape(steps)[0]).unstack(steps)

    def step(time: Any, memory: Any, state: Any) -> tuple[Any, Any, Any]:
        gates = tf1.nn.bias_add(tf.matmul(tf.concat([inputs.read(time), state], 1), kernel), bias)
        take, new, keep, give = tf.split(gates, 4, axis=1)
        changed = tf.sigmoid(keep + 1.0) * memory + tf.sigmoid(take) * tf.tanh(new)
        going_on = (time < lengths)[:, tf.newaxis]
        memory = tf.where(tf.tile(going_on, [1, WIDTH]), changed, memory)
        return time + 1, memory, tf.where(tf.tile(going_on, [1, WIDTH]), tf.sigmoid(give) * tf.tanh(changed), state)

    zeros = tf.zeros([rows, WIDTH])
    _, _, state = tf1.while_loop(lambda time, *_: time < tf.shape(steps)[0], step, (0, zeros, zeros))
    return tf.identity(state, name="state")


def make_pair(folder: Path) -> None:
    """Trains the source and saves it into `folder`."""
    with tf.Graph().as_default(), tf1.Session(config=tf1.ConfigProto(device_count={"GPU": 0})) as session:
        tf1.set_random_seed(SEED)
        characters = tf1.placeholder(tf.int32, [None, None], name="characters")
        lengths = tf1.placeholder(tf.int32, [None], name="lengths")
        months = tf1.placeholder(tf.int64, [None], name="months")
        table = tf1.get_variable("embedding", [1 + len(CHARACTERS), EMBEDDED])
        embedded = tf1.nn.embedding_lookup(table, characters)
        state = lstm(tf.transpose(embedded, [1, 0, 2]), lengths)
        kernel = tf1.get_variable("month/kernel", [WIDTH, 12])
        bias = tf1.get_variable("month/bias", [12], initializer=tf1.zeros_initializer())
        logits = tf1.nn.bias_add(tf.matmul(state, kernel), bias, name="month")
        loss = tf1.losses.sparse_softmax_cross_entropy(months, logits)
        right = tf1.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), months), tf.float32), name="accuracy")
        train = tf1.train.AdamOptimizer(3e-3).minimize(loss, global_step=tf1.train.get_or_create_global_step())
        saver = tf1.train.Saver()
        session.run(tf1.global_variables_initializer())
        for number in range(STEPS):
            session.run(
                train, feeds(dates(np.random.default_rng([SEED, 2, number]), BATCH)[:2], characters, lengths, months)
            )
        held_out = dates(np.random.default_rng([SEED, 3]), 1000)[:2]
        print(f"accuracy {session.run(right, feeds(held_out, characters, lengths, months)):.3f} on 1000 other dates")
        folder.mkdir(parents=True, exist_ok=True)
        # Saver.save orders the attributes of a node by chance and writes the time of day into `checkpoint`.
        saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False, write_state=False)
        (folder / "model.ckpt.meta").write_bytes(saver.export_meta_graph().SerializeToString(deterministic=True))
        (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n', encoding="utf-8")


def feeds(examples: tuple[list[str], np.ndarray], characters: Any, lengths: Any, months: Any) -> dict[Any, Any]:
    texts, wanted = examples
    rows, sizes = as_numbers(texts)
    return {characters: rows, lengths: sizes, months: wanted}


if __name__ == "__main__":
    main()
