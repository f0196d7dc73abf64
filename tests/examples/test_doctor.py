"""Everything that is wrong is said at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from finetune.examples import doctor
from finetune.examples.data import Examples, from_arrays
from finetune.examples.preprocess import what_is_wrong
from finetune.examples.tasks import make_task, with_targets
from finetune.recipe import Data, Head


def png(path: Path, value: int, size: int = 20) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tf.io.encode_png(np.full((size, size, 3), value, np.uint8)).numpy())


def looked_at(root: Path) -> tuple[Examples, doctor.Findings]:
    findings = doctor.Findings()
    files, columns = doctor.list_images(str(root), Data(), ["labels"], "data.path", findings)
    return doctor.look_at_images(files, columns, what_is_wrong, findings), findings


def test_130_all_bad_files_are_listed_with_their_reasons(tmp_path: Path):
    for i in range(3):
        png(tmp_path / "a" / f"{i}.png", i)
    content = tf.io.encode_jpeg(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).numpy()
    (tmp_path / "a" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "a" / "zero.jpg").touch()
    (tmp_path / "a" / "page.png").write_text("<html>")
    (tmp_path / "b").mkdir()
    png(tmp_path / "c" / "tiny.png", 9, 8)
    found, findings = looked_at(tmp_path)
    assert [Path(file).name for file in found.sources] == ["0.png", "1.png", "2.png", "tiny.png"]
    assert found.columns["labels"].tolist() == ["a", "a", "a", "c"]
    assert len(found.hashes) == 4
    said = [error.removeprefix(str(tmp_path)) for error in findings.errors]
    assert said[0] == "/b: the class folder is empty"
    assert [line.partition(":")[0] for line in said[1:]] == ["/a/cut.jpg", "/a/page.png", "/a/zero.jpg"]
    assert "jpeg" in said[1].lower()
    assert said[2:] == ["/a/page.png: it is not an image", "/a/zero.jpg: it is empty"]
    assert findings.warnings == [f"{tmp_path}/c/tiny.png: it is only 8×8"]
    assert findings.lines()[0] == "images: 4 PNG; 8×8 to 20×20, 2 sizes"
    assert findings.lines()[-1] == "4 errors, 1 warning"


def test_files_of_a_manifest_too(tmp_path: Path):
    png(tmp_path / "a.png", 0)
    (tmp_path / "m.csv").write_text("file,label\na.png,x\nnone.png,y\n")
    found, findings = looked_at(tmp_path / "m.csv")
    assert found.sources == [str(tmp_path / "a.png")]
    assert findings.errors == [f"{tmp_path}/none.png: No such file or directory"]


def test_rows_with_numbers_that_are_none(tmp_path: Path):
    x = np.ones((300, 2), np.float32)
    x[[3, 290, 291, 292], 1] = [np.nan, np.inf, 0, -np.inf]
    findings = doctor.Findings()
    doctor.look_at_rows(from_arrays({"x": x}, {"labels": np.zeros(300)}, "d.npz"), "data.path", findings)
    assert findings.errors == ["data.path: 'x' has NaN or Inf in 3 rows, first 3, 290, 292"]
    assert findings.facts == ["data.path: 'x' is float32 2"]


def settled(labels: list[str], contents: list[str]) -> Examples:
    return Examples(contents, {"labels": np.asarray(labels, object)}, [c[0] for c in contents])


def test_classes_and_copies_are_counted():
    training = settled(["a"] * 10 + ["b"] * 2, ["0", "1", "1 again", *"23456789", "1 too"])
    task = make_task("head", Head(), "cut:0", "labels", training)
    held_out = settled(["b"], ["9 held"])
    findings = doctor.Findings()
    doctor.look_at_classes(with_targets(training, [task]), with_targets(held_out, [task]), [task], findings)
    assert findings.facts == [
        "split: 12 examples to train on, 1 held out",
        "  a: 10 to train on, 0 held out",
        "  b: 2 to train on, 1 held out",
    ]
    assert findings.warnings == [
        "class b has only 3 examples",
        "1 of 1 held-out examples are in the training data too: 9 held = 9",
        "1 examples have the content of another one and another label: 1 too (b) = 1 (a)",
        "2 examples of the training data are copies: 1 = 1 again = 1 too",
    ]
    assert not findings.errors
