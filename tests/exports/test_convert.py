"""Exports of a run on images: preprocessing and labels inside, compared by another process, never half there."""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.__main__ import main
from finetune.errors import UserError
from finetune.exports import convert, frozen_pb, onnx, parity, reload, tflite
from finetune.exports.serving import Serving, read_serving
from finetune.packaged import asset
from finetune.reading.weights import read_index, read_tensors
from finetune.results import export
from finetune.results.card import read_card
from finetune.results.checkpoints import write


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    command = [sys.executable, "-m", "finetune", "recipe=vgg_2class", "train.steps=2", f"run.dir={folder}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def serving(run: Path) -> Serving:
    return read_serving(run / "model", read_card(run / "model"))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares here, for a new process takes seconds."""
    monkeypatch.setattr(parity, "_asked", lambda job, folder: reload.answer(job))


def asked(serving: Serving, to: str, folder: Path, fixed_size: bool = False) -> tuple[dict[str, Any], np.ndarray]:
    """What an export gives for the probe, in this process, and what the pair gives."""
    folder.mkdir()
    card = convert.WRITERS[to](serving, folder)
    examples = parity.probe(serving, fixed_size)
    found = reload.WAYS[to](folder, card, examples.raw)
    (answers,) = found.values()
    pair = reload.pair(Path(serving.source.pair.meta).parent, examples.prepared, serving.outputs)
    return answers, pair["probabilities"]


def test_143_a_saved_model_takes_images_as_people_have_them(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(run), "--to", "savedmodel"]) == 0
    out = capsys.readouterr().out
    assert "parity: max |Δ| 0 on 8 examples" in out
    folder = run / "export" / "savedmodel"
    assert [path.name for path in folder.parent.iterdir()] == ["savedmodel"]
    signatures = tf.saved_model.load(str(folder)).signatures
    files = sorted(Path(asset("demo/dress_coat")).rglob("*.png"))[:5]
    contents = [file.read_bytes() for file in files]
    by_bytes = signatures["serving_bytes"](image_bytes=tf.constant(contents))
    images = np.stack([tf.io.decode_image(content, 1).numpy() for content in contents])
    by_images = signatures["serving_default"](images=tf.constant(images, tf.float32))
    np.testing.assert_allclose(by_bytes["probabilities"], by_images["probabilities"], rtol=0, atol=1e-6)
    assert set(by_bytes["classes"].numpy().tolist()) <= {b"coat", b"dress"}
    assert (folder / "assets.extra" / "labels.txt").read_text() == "coat\ndress\n"
    about = json.loads((folder / "assets.extra" / "model.json").read_text())
    assert about["heads"]["head"]["classes"] == ["coat", "dress"]
    assert about["images"] == "0 to 255; resized to 28×28 and scaled ('unit') inside"


@pytest.mark.parametrize("to", ["pair", "savedmodel"])
def test_144_a_pair_with_a_value_that_is_none_is_not_handed_on(
    run: Path, tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    prefix = tmp_path / "run/model/model"
    tensors = read_tensors(str(prefix), sorted(read_index(str(prefix))))
    tensors["head/bias"] = np.array([np.nan, 0], np.float32)
    write(prefix.parent, prefix.name, tensors, {})
    assert main(["export", str(tmp_path / "run"), "--to", to]) in (3, 4)
    said = capsys.readouterr().err
    assert "head/bias" in said
    assert len(said.splitlines()) <= 5
    assert not (tmp_path / "run/export").exists() or not list((tmp_path / "run/export").iterdir())


@pytest.mark.usefixtures("in_this_process")
def test_an_export_that_computes_something_else_is_not_left(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def wrong(serving: Serving, folder: Path) -> dict[str, Any]:
        serving.values["head/bias"][0] += 0.01  # type: ignore[index]
        return frozen_pb.write(serving, folder)

    monkeypatch.setitem(convert.WRITERS, "frozen", wrong)
    place = run.parent / "wrong"
    assert main(["export", str(run), "--to", "frozen", "--out", str(place)]) == 4
    error = capsys.readouterr().err
    assert "the exported model is off by 0.00" in error
    assert len(error.splitlines()) == 1
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]


@pytest.mark.usefixtures("in_this_process")
def test_141_an_export_that_is_killed_leaves_the_one_before_and_nothing_else(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    place = run / "export" / "frozen"
    others = [run / "export" / ".writing-onnx.4711", run / "export" / ".writing-frozen.mine"]
    (run / "export").mkdir(exist_ok=True)
    for path in (*others, run / "export" / ".writing-frozen.4711"):
        path.mkdir()
    assert main(["export", str(run), "--to", "frozen"]) == 0
    before = {file.name for file in place.iterdir()}
    for exchanges in (True, False):
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(convert.os, "rename", killed)
            if not exchanges:
                patch.setattr(export, "_exchanged", lambda one, other: False)
            main(["export", str(run), "--to", "frozen"])
        assert {file.name for file in place.iterdir()} == before
    place.rename(place.with_name(".before-frozen.4711"))  # where there is no exchange, between its two names
    assert main(["export", str(run), "--to", "frozen"]) == 0
    assert {path.name for path in place.parent.iterdir() if path.name != "savedmodel"} == {
        "frozen",
        *(path.name for path in others),
    }
    for path in others:
        path.rmdir()


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EFBIG, "File too large"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
        tf.errors.ResourceExhaustedError(None, None, "/export/model.pb; No space left on device"),
    ],
)
def test_a_disk_that_is_full_is_no_bug(
    run: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(*_: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setitem(convert.WRITERS, "frozen", full)
    assert main(["export", str(run), "--to", "frozen", "--out", str(run.parent / "full")]) == 5
    said = capsys.readouterr().err
    assert re.match(
        r"error\[storage\] .*/full: cannot be written: .*; free some space, or write elsewhere: --out$", said
    )
    assert not (run.parent / "full").exists()


@pytest.mark.usefixtures("in_this_process")
def test_an_export_is_synced_before_it_has_its_name(run: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[str] = []
    real = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    assert main(["export", str(run), "--to", "frozen"]) == 0
    names = {file.name for file in (run / "export" / "frozen").iterdir()}
    assert {Path(path).name for path in synced[:-1]} == {*names, f".writing-frozen.{os.getpid()}"}
    assert synced[-1] == str(run / "export")


def test_a_frozen_graph_resizes_and_scales_inside(serving: Serving, tmp_path: Path):
    found, expected = asked(serving, "frozen", tmp_path / "frozen")
    assert parity.probe(serving, False).raw["images"].shape == (8, 36, 36, 1)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_tensorflow_lite(serving: Serving, tmp_path: Path):
    found, expected = asked(serving, "tflite", tmp_path / "lite", fixed_size=True)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-4)
    interpreter = tf.lite.Interpreter(model_path=str(tmp_path / "lite" / tflite.FILE))
    assert [d["shape"].tolist() for d in interpreter.get_input_details()] == [[1, 28, 28, 1]]


def test_onnx(serving: Serving, tmp_path: Path):
    for package in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    found, expected = asked(serving, "onnx", tmp_path / "onnx")
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-4)
    assert (tmp_path / "onnx" / onnx.FILE).is_file()


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("to", ["pair", "tflite"])
def test_the_other_formats_by_the_door(run: Path, to: str, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(run), "--to", to, "--out", str(run.parent / to)]) == 0
    assert "parity: max |Δ| " in capsys.readouterr().out
    assert (run.parent / to / "labels.txt").read_text() == "coat\ndress\n"


def test_143_the_process_that_compares_knows_nothing_of_finetune():
    tree = ast.parse(parity.SCRIPT.read_text(encoding="utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert not [name for name in modules if str(name).partition(".")[0] == "finetune"]


@pytest.mark.usefixtures("in_this_process")
def test_a_model_that_does_not_run_is_said_to_be_so(serving: Serving, tmp_path: Path):
    (tmp_path / frozen_pb.FILE).write_bytes(b"no graph")
    examples = parity.probe(serving, False)
    model = Path(serving.source.pair.meta).parent
    card = {"file": frozen_pb.FILE, "inputs": {}, "outputs": {}}
    with pytest.raises(UserError, match="the exported model does not run, so nothing is left of it: DecodeError"):
        parity.difference(serving, examples, model, tmp_path, "frozen", card)


@pytest.mark.parametrize(
    ("answer", "truth", "off"),
    [
        ([0.5, 0.5], [0.5, 0.5], 0.0),
        ([np.nan], [np.nan], 0.0),
        ([0.5], [0.25], 0.25),
        ([300.0, 0.0], [200.0, 0.0], 0.5),
    ],
)
def test_differences(answer: list[float], truth: list[float], off: float):
    assert reload._off(np.float32(answer), np.float32(truth)) == off


def test_a_difference_that_is_not_a_number_is_too_much():
    assert not reload._off(np.float32([np.nan]), np.float32([0.5])) <= 1e-4
