"""A program without finetune: runs a finished pair and what was exported from it on the same examples.

`python -c` runs the text of this file in a process of its own, which imports what whoever is given the model would
import: TensorFlow, or ONNX Runtime beside it. The job comes as JSON on the standard input; the answer, the last line of
the standard output, is the largest difference of each output in each way of asking.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
Arrays = Mapping[str, np.ndarray]


def pair(folder: Path, feeds: Arrays, outputs: Mapping[str, str]) -> dict[str, Any]:
    """The pair as programs of the time load it; `feeds` are by tensor."""
    with tf.Graph().as_default(), _session() as session:
        saver = tf1.train.import_meta_graph(str(folder / "model.meta"), clear_devices=True)
        saver.restore(session, str(folder / "model"))
        session.run(tf1.tables_initializer())
        return session.run(dict(outputs), dict(feeds))


def savedmodel(folder: Path, card: Any, examples: Arrays) -> dict[str, Any]:
    """By `tf.saved_model.load` and by the loader of TensorFlow 1, and of images encoded ones too."""
    signatures = tf.saved_model.load(str(folder)).signatures
    given = {name: tf.constant(rows, card["inputs"][name]["dtype"]) for name, rows in examples.items()}
    asked = {"serving_default": signatures["serving_default"](**given)}
    if "serving_bytes" in card["signatures"]:
        encoded = [tf.io.encode_png(tf.cast(image, tf.uint8)) for image in examples["images"]]
        asked["serving_bytes"] = signatures["serving_bytes"](image_bytes=tf.stack(encoded))
    found = {way: {name: tensor.numpy() for name, tensor in outputs.items()} for way, outputs in asked.items()}
    with tf.Graph().as_default(), _session() as session:
        meta = tf1.saved_model.loader.load(session, ["serve"], str(folder))
        signature = meta.signature_def["serving_default"]
        feeds = {signature.inputs[name].name: rows for name, rows in examples.items()}
        found["TensorFlow 1"] = session.run({n: info.name for n, info in signature.outputs.items()}, feeds)
    return found


def frozen(folder: Path, card: Any, examples: Arrays) -> dict[str, Any]:
    """The graph in a session."""
    definition = tf1.GraphDef.FromString((folder / card["file"]).read_bytes())
    with tf.Graph().as_default(), _session() as session:
        tf1.import_graph_def(definition, name="")
        if "run_first" in card:
            session.run(card["run_first"])
        feeds = {card["inputs"][name]["tensor"]: rows for name, rows in examples.items()}
        return {"session": session.run({name: about["tensor"] for name, about in card["outputs"].items()}, feeds)}


def tflite(folder: Path, card: Any, examples: Arrays) -> dict[str, Any]:
    """The interpreter, one example after the other."""
    interpreter = tf.lite.Interpreter(model_path=str(folder / card["file"]))
    interpreter.allocate_tensors()
    place = {d["name"]: d["index"] for d in (*interpreter.get_input_details(), *interpreter.get_output_details())}
    found: dict[str, list[Any]] = {name: [] for name in card["outputs"]}
    for i in range(len(next(iter(examples.values())))):
        for name, rows in examples.items():
            interpreter.set_tensor(_place(place, card["inputs"][name]), rows[i : i + 1])
        interpreter.invoke()
        for name, about in card["outputs"].items():
            found[name].append(interpreter.get_tensor(_place(place, about)))
    return {"interpreter": {name: np.concatenate(rows) for name, rows in found.items()}}


def _place(place: Mapping[str, int], about: Any) -> int:
    return place[about["tensor"]] if about["tensor"] in place else place[about["tensor"].removesuffix(":0")]


def onnx(folder: Path, card: Any, examples: Arrays) -> dict[str, Any]:
    """ONNX Runtime on the processor."""
    import onnxruntime  # pyright: ignore[reportMissingImports] - an extra

    session = onnxruntime.InferenceSession(str(folder / card["file"]), providers=["CPUExecutionProvider"])
    found = session.run(list(card["outputs"]), dict(examples))
    return {"onnxruntime": dict(zip(card["outputs"], found, strict=True))}


WAYS: dict[str, Callable[[Path, Any, Arrays], dict[str, Any]]] = {
    "savedmodel": savedmodel,
    "frozen": frozen,
    "tflite": tflite,
    "onnx": onnx,
}


def compare(job: Any) -> dict[str, Any]:
    """The largest differences, by way and output; `steady` is whether the pair agrees with itself."""
    with np.load(job["examples"], allow_pickle=False) as stored:
        given = {name: stored[name] for name in stored.files}
    feeds = {name.removeprefix("prepared/"): rows for name, rows in given.items() if name.startswith("prepared/")}
    raw = {name.removeprefix("raw/"): rows for name, rows in given.items() if name.startswith("raw/")}
    wanted = job["outputs"]

    def of_pair(model: str) -> dict[str, Any]:
        return _in_portions(lambda part: pair(Path(model), part, wanted), feeds, job["portion"])

    truth = of_pair(job["model"])
    if job["format"] == "pair":
        found = {"session": of_pair(job["folder"])}
    else:
        found = WAYS[job["format"]](Path(job["folder"]), job["card"], raw)
    off = {f"{way} {name}": _off(answers[name], truth[name]) for way, answers in found.items() for name in wanted}
    again = of_pair(job["model"]) if any(off.values()) else truth
    return {"off": off, "steady": all(_off(again[name], truth[name]) == 0.0 for name in wanted)}


def _in_portions(ask: Callable[[Arrays], Arrays], feeds: Arrays, portion: int | None) -> dict[str, Any]:
    """The answers for all examples, asked for as many at once as the pair takes."""
    count = len(next(iter(feeds.values())))
    size = portion or count
    found = [ask({t: rows[i : i + size] for t, rows in feeds.items()}) for i in range(0, count, size)]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _off(answer: Any, truth: np.ndarray) -> float:
    """The largest difference; of numbers that are large, relative to the largest. NaN where both are is none."""
    answer = np.asarray(answer)
    if answer.shape != truth.shape:
        raise ValueError(f"an output of {list(answer.shape)} where the pair gives {list(truth.shape)}")
    if not truth.size or np.array_equal(answer, truth, equal_nan=True):
        return 0.0
    return float(np.max(np.abs(answer - truth)) / max(1.0, float(np.max(np.abs(truth)))))


def _session() -> Any:
    # What is compared is the arithmetic that the file states; optimisers of graphs round otherwise, each in its way.
    config = tf1.ConfigProto(allow_soft_placement=True)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return tf1.Session(config=config)


def answer(job: Any) -> dict[str, Any]:
    """What is found, or the error that it ends in."""
    try:
        return compare(job)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    print("\n" + json.dumps(answer(json.load(sys.stdin))), flush=True)


if __name__ == "__main__":
    main()
