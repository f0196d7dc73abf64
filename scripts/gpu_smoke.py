"""Tries a machine's GPUs, and prints a table to paste into an issue.

    python scripts/gpu_smoke.py [FOLDER]

The demo recipe is trained with all of its layers on the CPU and, where there are GPUs, on one of them in each
precision, with XLA, and on all of them together. Of each it prints how fast it was, how good it became, and the loss
before the first step, which tells how far the device is from the CPU. It takes some minutes; without a GPU only the
row of the CPU is left.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RECIPE = ["recipe=vgg_2class", "stop_gradient=false", "train.steps=300", "train.learning_rate=1e-4", "cache.mode=off"]
RECIPE += ["engine.mode=default", "train.log_every_steps=100", "eval.probe=false"]
ONE = ["engine.gpus=1", "distribute=none"]
ROWS = {
    "CPU": ["engine.gpus=0"],
    "one GPU": ONE,
    "one GPU, XLA": [*ONE, "train.xla=true"],
    "one GPU, mixed_float16": [*ONE, "train.precision=mixed_float16"],
    "one GPU, mixed_bfloat16": [*ONE, "train.precision=mixed_bfloat16"],
    "all GPUs": ["distribute=mirrored"],
}
ABOUT = """
import json, tensorflow as tf
gpus = tf.config.list_physical_devices("GPU")
names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
built = tf.sysconfig.get_build_info()
print(json.dumps({"tensorflow": tf.version.VERSION, "gpus": names, "cuda": str(built.get("cuda_version", "none")),
                  "cudnn": str(built.get("cudnn_version", "none"))}))
"""


def about() -> dict[str, Any]:
    """TensorFlow, what it was built for, and the GPUs that it sees."""
    done = subprocess.run([sys.executable, "-c", ABOUT], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, words: list[str], folder: Path) -> list[str]:
    """What a run of these words came to, or why it did not."""
    place = folder / "-".join(name.replace(",", "").lower().split())
    command = [sys.executable, "-m", "finetune", *RECIPE, *words, f"run.dir={place}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing said"]
        return [name, f"status {done.returncode}", "", said[0][:100].replace("|", "/")]
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    fastest = max(line["examples_per_second"] for line in lines if line["phase"] == "train")
    first = next(line["loss"] for line in lines if line["phase"] == "eval")
    record = json.loads((place / "run.json").read_text(encoding="utf-8"))
    return [name, f"{fastest:.0f}", f"{record['metrics']['accuracy']:.4f}", f"loss at step 0: {first:.7f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where the runs go; a temporary folder if not given")
    given = parser.parse_args().folder
    found = about()
    gpus = len(found["gpus"])
    wanted = [name for name in ROWS if name == "CPU" or gpus > (name == "all GPUs")]
    with tempfile.TemporaryDirectory() as scratch:
        rows = [row(name, ROWS[name], given or Path(scratch)) for name in wanted]
    print(f"TensorFlow {found['tensorflow']}, built for CUDA {found['cuda']} and cuDNN {found['cudnn']}")
    print(f"GPUs: {', '.join(found['gpus']) or 'none'}\n")
    for cells in (["on", "examples/s", "accuracy", ""], ["---"] * 4, *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
