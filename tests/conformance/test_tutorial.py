"""The classic save/restore tutorial, row by row: what it does must hold for our readers and for what we write."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.training import saver as saver_module

from finetune import graph, packaged
from finetune.__main__ import main
from finetune.engine import heads
from finetune.engine.compile import Graft, as_function, features_program, forward_program, step_program
from finetune.engine.graft import Model, graft, pair_graph
from finetune.errors import UserError
from finetune.examples import data, folders
from finetune.examples.tasks import make_task, with_targets
from finetune.reading import metagraph
from finetune.reading.metagraph import Pair, find_pair
from finetune.reading.variables import Variable, find_variables
from finetune.reading.weights import read_index, read_tensors
from finetune.recipe import Head
from finetune.results import checkpoints, export
from finetune.results.checkpoints import Retention
from finetune.surgery.backbone import make_backbone
from finetune.surgery.source import Source, read_source, read_values
from finetune.surgery.variants import make_variants
from tests.graphs import softmax_of

tf1 = tf.compat.v1

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
DEMO = Path(packaged.asset("demo/small_vgg"))
IMAGES = Path(packaged.asset("demo/dress_coat"))
HELD_OUT = 0.2  # the default of data.holdout
RECIPE = ["recipe=vgg_2class", "train.steps=8", "eval.every_steps=8", "checkpoint.every_steps=4"]


# What the tutorial's programs leave -----------------------------------------------------------------------------------


def variable(value: Any, name: str, resource: bool = False) -> Any:
    return tf1.Variable(tf.constant(value, tf.float32), name=name, use_resource=resource)


def save_two(folder: Path, name: str = "my_test_model", step: int | None = 1000, **saver: Any) -> None:
    """The tutorial's first program: two variables, saved."""
    folder.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), tf1.Session() as session:
        variable([0.5, -1.5], "w1")
        variable(np.arange(5), "w2")
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver(**saver).save(session, str(folder / name), global_step=step)


def save_placeholders(folder: Path, resource: bool = False, shape: list[Any] | None = None) -> Path:
    """The tutorial's second program: (w1 + w2) * b1, with b1 the only variable."""
    folder.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), tf1.Session() as session:
        w1 = tf1.placeholder("float", shape, name="w1")
        w2 = tf1.placeholder("float", shape, name="w2")
        b1 = variable(2.0, "bias", resource)
        tf.multiply(tf.add(w1, w2), b1, name="op_to_restore")
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(session, str(folder / "my_test_model"), global_step=1000)
    return folder


def variables_of(path: str | Path) -> list[Variable]:
    meta = metagraph.read(find_pair(str(path)).meta)
    return find_variables(meta, graph.from_meta(meta))


def resolved(pair: Pair) -> tuple[Path, Path]:
    return pair.meta.resolve(), Path(pair.prefix).resolve()


def names(files: Iterable[Path]) -> set[str]:
    return {file.name for file in files}


# One run, and a stranger with nothing but TensorFlow ------------------------------------------------------------------

# The tutorial's own lines. It is given a folder, a probe, and says what it sees; nothing of ours is there.
STRANGER = """
import json, sys
import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
asked = json.loads(sys.stdin.read())

def pixels(path):
    return tf.io.decode_png(tf.io.read_file(path), channels=1).numpy().astype(np.float32) / 255

images = np.stack([pixels(path) for path in asked["images"]])
labels = np.array(asked["labels"])
source = tf.train.load_checkpoint(asked["source"])
wanted = {name: source.get_tensor(name) for name in asked["frozen"]}

def look(meta, prefix):
    with tf.Graph().as_default() as graph, tf1.Session() as sess:
        saver = tf1.train.import_meta_graph(meta)
        saver.restore(sess, prefix)
        x = graph.get_tensor_by_name("images:0")
        logits, probabilities = (graph.get_tensor_by_name(f"head/{name}:0") for name in ("logits", "probabilities"))
        scores, chances = sess.run([logits, probabilities], {x: images})
        dropped = graph.get_tensor_by_name("keep_prob:0")
        kept = sess.run(logits, {x: images, dropped: 1.0})
        live = {v.name: sess.run(v) for v in tf1.global_variables()}
        shifted = scores - scores.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
        return {
            "variables": [v.name for v in tf1.global_variables()],
            "trainable": [v.name for v in tf1.trainable_variables()],
            "ops": [op.name for op in graph.get_operations()],
            "fc7": graph.get_tensor_by_name("fc7:0").shape.as_list(),
            "accuracy": float(np.mean(chances.argmax(axis=1) == labels)),
            "loss": float(np.mean(losses, dtype=np.float64)),
            "feeding 1.0 changes": float(np.abs(kept - scores).max()),
            "moved": [name for name, value in wanted.items() if live[f"{name}:0"].tobytes() != value.tobytes()],
        }

model, saved = asked["model"], asked["checkpoints"]
found = {"finished": look(f"{model}/model.meta", tf1.train.latest_checkpoint(model))}
for step in (4, 8):
    found[f"step {step}"] = look(f"{saved}/model.meta", f"{saved}/model-{step}")
found["latest"] = tf1.train.latest_checkpoint(saved)
found["ours"] = [name for name in sys.modules if name.split(".")[0] == "finetune"]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Run:
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))

    def copy(self, to: Path) -> Run:
        """A copy that may be changed, with the times of its files."""
        return Run(Path(shutil.copytree(self.folder, to)))


def finetune(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finetune", *words, f"run.dir={folder}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder.parent)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The folder of one short run of `vgg_2class`; not to be changed."""
    folder = tmp_path_factory.mktemp("tutorial") / "run"
    done = finetune(RECIPE, folder)
    assert done.returncode == 0, done.stderr
    return Run(folder)


@pytest.fixture(scope="module")
def held_out() -> data.Examples:
    images = folders.class_folders(str(IMAGES), "labels")
    return data.hold_out(with_targets(images, [make_task("head", Head(), "fc7:0", "labels", images)]), HELD_OUT)[1]


@pytest.fixture(scope="module")
def below() -> Source:
    """The demo's pair, cut as the run cuts it."""
    return read_source(str(DEMO), "fc7:0", {}, {"keep_prob": 1.0})


@pytest.fixture(scope="module")
def seen(run: Run, held_out: data.Examples, below: Source) -> dict[str, Any]:
    """What plain TensorFlow sees of the run, in a process of its own."""
    asked = {
        "model": str(run.model),
        "checkpoints": str(run.folder / "checkpoints"),
        "source": below.pair.prefix,
        "frozen": [v.name for v in below.variables],
        "images": list(held_out.sources),
        "labels": held_out.targets["head"].tolist(),
    }
    command = [sys.executable, "-c", STRANGER]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# 1. A saver saves two variables, and they are printed by name ---------------------------------------------------------


def test_1_our_readers_list_the_variables_that_a_saver_saved(tmp_path: Path) -> None:
    save_two(tmp_path)
    entries = read_index(find_pair(str(tmp_path)).prefix)
    assert {key: entry.shape for key, entry in entries.items()} == {"w1": (2,), "w2": (5,)}
    assert [(f"{v.name}:0", v.key) for v in variables_of(tmp_path)] == [("w1:0", "w1"), ("w2:0", "w2")]


def test_1_plain_tensorflow_prints_old_and_new_names_of_our_pair(seen: Mapping[str, Any], below: Source) -> None:
    head = ["head/kernel:0", "head/bias:0"]
    assert seen["finished"]["variables"] == [*(f"{v.name}:0" for v in below.variables), *head]
    assert seen["finished"]["trainable"] == seen["finished"]["variables"]


def test_1_our_readers_list_the_variables_of_our_own_pair(run: Run, seen: Mapping[str, Any]) -> None:
    assert [f"{v.name}:0" for v in variables_of(run.model)] == seen["finished"]["variables"]
    assert set(read_index(find_pair(str(run.model)).prefix)) == {v.name for v in variables_of(run.model)}


# 2. saver.save(sess, 'my_test_model', global_step=1000) ---------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        "saved",
        "saved/",
        "./saved",
        "./saved/",
        "saved/my_test_model-1000",
        "./saved/my_test_model-1000",
        "saved/my_test_model-1000.meta",
        "saved/my_test_model-1000.index",
        "saved/my_test_model-1000.data-00000-of-00001",
        "{absolute}",
        "{absolute}/",
        "{absolute}/my_test_model-1000",
        "{absolute}/my_test_model-1000.index",
    ],
)
def test_2_a_pair_is_found_by_its_folder_its_prefix_and_each_of_its_files(workdir: Path, given: str) -> None:
    saved = workdir / "saved"
    save_two(saved)
    pair = find_pair(given.format(absolute=saved))
    assert resolved(pair) == (saved / "my_test_model-1000.meta", saved / "my_test_model-1000")
    assert set(read_tensors(pair.prefix, ["w1", "w2"])) == {"w1", "w2"}


@pytest.mark.parametrize("given", [".", "./", "my_test_model-1000", "./my_test_model-1000.meta", "../saved"])
def test_2_a_pair_is_found_from_its_own_folder(workdir: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    saved = workdir / "saved"
    save_two(saved)
    monkeypatch.chdir(saved)
    pair = find_pair(given)
    assert resolved(pair) == (saved / "my_test_model-1000.meta", saved / "my_test_model-1000")


def test_2_a_pair_is_found_from_another_folder_and_after_it_was_moved(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_two(workdir / "saved")  # its `checkpoint` file now holds the path that is given up here
    moved = (workdir / "saved").rename(workdir / "moved")
    elsewhere = workdir / "else" / "where"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    for given in ("../../moved", "../../moved/", "../../moved/my_test_model-1000.index"):
        assert resolved(find_pair(given)) == (moved / "my_test_model-1000.meta", moved / "my_test_model-1000")


def test_2_a_name_without_its_step_is_answered_with_the_name_that_is_there(tmp_path: Path) -> None:
    save_two(tmp_path)
    with pytest.raises(UserError, match="my_test_model-1000"):
        find_pair(str(tmp_path / "my_test_model"))


def test_2_our_own_checkpoints_carry_the_step_in_their_names(run: Run, seen: Mapping[str, Any]) -> None:
    saved = run.folder / "checkpoints"
    assert names(saved.glob("*.index")) == {"model-4.index", "model-8.index"}
    assert seen["latest"] == str(saved / "model-8")
    for given, step in (("", 8), ("model-4", 4), ("model-8.index", 8)):
        assert resolved(find_pair(str(saved / given))) == (saved / "model.meta", saved / f"model-{step}")


# 3. write_meta_graph=False --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", ["my-model.meta", "my-model-1000.meta"])
@pytest.mark.parametrize("given", ["", "my-model-2000", "my-model-2000.index"])
def test_3_a_later_checkpoint_uses_the_graph_that_was_written_first(tmp_path: Path, meta: str, given: str) -> None:
    with tf.Graph().as_default(), tf1.Session() as session:
        w1 = variable([1.0, 1.0], "w1")
        saver = tf1.train.Saver()
        session.run(w1.initializer)
        saver.save(session, str(tmp_path / "my-model"), global_step=1000, write_meta_graph=False)
        saver.export_meta_graph(str(tmp_path / meta))
        session.run(w1.assign([2.0, 2.0]))
        saver.save(session, str(tmp_path / "my-model"), global_step=2000, write_meta_graph=False)
    pair = find_pair(str(tmp_path / given))
    assert resolved(pair) == (tmp_path / meta, tmp_path / "my-model-2000")
    assert read_tensors(pair.prefix, ["w1"])["w1"].tolist() == [2.0, 2.0]


def test_3_plain_tensorflow_restores_every_one_of_our_checkpoints_with_the_one_graph(
    run: Run, seen: Mapping[str, Any]
) -> None:
    metrics = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    (last,) = (m for m in metrics if m["phase"] == "eval" and m["step"] == 8)
    assert seen["step 8"]["accuracy"] == last["accuracy"]
    assert seen["step 8"]["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert seen["step 4"]["loss"] != pytest.approx(seen["step 8"]["loss"], rel=1e-3)
    assert seen["step 4"]["moved"] == []


def test_3_a_run_writes_its_graph_once(run: Run, tmp_path: Path) -> None:
    resumed = run.copy(tmp_path / "run")
    saved = resumed.folder / "checkpoints"
    before = (saved / "model.meta").stat()
    assert before.st_mtime_ns < (saved / "model-4.index").stat().st_mtime_ns
    assert main([*RECIPE, "train.steps=12", f"run.dir={resumed.folder}"]) == 0
    assert names(saved.glob("*.index")) == {"model-4.index", "model-8.index", "model-12.index"}
    after = (saved / "model.meta").stat()
    assert names(saved.glob("*.meta")) == {"model.meta"}
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


# 4. max_to_keep=4, keep_checkpoint_every_n_hours=2 --------------------------------------------------------------------


class Timer:
    """A clock that stands still until it is set, in place of `time`."""

    def __init__(self, now: float):
        self.now = now

    def time(self) -> float:
        return self.now


def moments(kind: str) -> list[float]:
    """When to save, in seconds, the first time being that at which the saver is made."""
    draw = random.Random(3)
    minutes = {
        "every 10 minutes": [10.0] * 60,
        "every 45 minutes": [45.0] * 30,
        "every hour": [60.0] * 24,
        "every 2 hours": [120.0] * 10,
        "every 3 hours": [180.0] * 10,
        "when it suits": [draw.uniform(5, 100) for _ in range(40)],
    }[kind]
    return [1.7e9 + 60 * sum(minutes[:count]) for count in range(len(minutes))]


def kept_by_tensorflow(folder: Path, times: list[float], hours: float, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    timer = Timer(times[0])
    with monkeypatch.context() as patch, tf.Graph().as_default(), tf1.Session() as session:
        patch.setattr(saver_module, "time", timer)
        session.run(variable(1.0, "w").initializer)
        saver = tf1.train.Saver(max_to_keep=4, keep_checkpoint_every_n_hours=hours)
        for step, timer.now in enumerate(times):
            saver.save(session, str(folder / "model"), global_step=step, write_meta_graph=False)
    return names(folder.glob("*.index"))


def save_ours(folder: Path, times: list[float], hours: float | None) -> set[str]:
    for step, now in enumerate(times):
        checkpoints.save(folder, f"model-{step}", {"w": np.float32(1)}, {}, Retention(4, hours), now)
    assert names(folder.glob("*.data-*")) == {
        f.name.replace(".index", ".data-00000-of-00001") for f in folder.glob("*.index")
    }
    return names(folder.glob("*.index"))


@pytest.mark.parametrize(
    "kind", ["every 10 minutes", "every 45 minutes", "every hour", "every 2 hours", "every 3 hours", "when it suits"]
)
def test_4_we_keep_the_checkpoints_that_saver_keeps(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = moments(kind)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    kept = kept_by_tensorflow(theirs, times, 2, monkeypatch)
    assert 4 < len(kept) <= len(times), "the sequence is too short to show anything"
    assert save_ours(ours, times, 2) == kept
    state, expected = tf1.train.get_checkpoint_state(str(ours)), tf1.train.get_checkpoint_state(str(theirs))
    assert [Path(p).name for p in state.all_model_checkpoint_paths] == [
        Path(p).name for p in expected.all_model_checkpoint_paths
    ]
    assert list(state.all_model_checkpoint_timestamps) == times[-4:]


def test_4_a_night_without_saves_is_not_made_up_for(tmp_path: Path) -> None:
    # Where a new Saver would begin to count anew, the state file goes on; it must not keep all that follows.
    hour = 3600.0
    evening, morning = [hour / 2 * i for i in range(8)], [61 * hour + hour / 2 * i for i in range(12)]
    save_ours(tmp_path, evening, 2)
    for step, now in enumerate(morning, start=len(evening)):
        checkpoints.save(tmp_path, f"model-{step}", {"w": np.float32(1)}, {}, Retention(4, 2), now)
    kept = [int(f.stem.removeprefix("model-")) for f in tmp_path.glob("*.index")]
    assert sorted(kept) == [5, 8, 11, 15, 16, 17, 18, 19]  # 2.5, 61, 62.5 and 64.5 hours, and the newest four


def test_4_without_hours_the_newest_four_are_kept(tmp_path: Path) -> None:
    assert save_ours(tmp_path, moments("every hour"), None) == {f"model-{step}.index" for step in (20, 21, 22, 23)}


def test_4_tensorflow_reads_our_state_file_also_after_the_folder_was_moved(tmp_path: Path) -> None:
    save_ours(tmp_path / "made", moments("every hour")[:6], None)
    folder = str((tmp_path / "made").rename(tmp_path / "moved"))
    state = tf1.train.get_checkpoint_state(folder)
    assert state.model_checkpoint_path == f"{folder}/model-5"
    assert list(state.all_model_checkpoint_paths) == [f"{folder}/model-{step}" for step in (2, 3, 4, 5)]
    assert tf1.train.latest_checkpoint(folder) == f"{folder}/model-5"
    assert tf.train.load_checkpoint(folder).get_tensor("w") == 1


# 5. A saver of a list, and of a dict ----------------------------------------------------------------------------------


def save_some(folder: Path, chosen: Callable[[Any, Any], Any]) -> None:
    """x * w1 + w2, of which the saver takes what `chosen` says."""
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 2], name="x")
        w1, w2 = variable([3.0, 4.0], "w1"), variable([5.0, 6.0], "w2")
        tf.add(tf.multiply(x, w1, name="scaled"), w2, name="shifted")
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver(chosen(w1, w2)).save(session, str(folder / "some"))


def test_5_of_a_saver_of_a_list_the_others_are_missed_only_where_they_are_needed(tmp_path: Path) -> None:
    save_some(tmp_path, lambda w1, w2: [w1])
    assert set(read_index(str(tmp_path / "some"))) == {"w1"}
    values = read_values(read_source(str(tmp_path), "scaled:0", {}, {}))
    assert {name: value.tolist() for name, value in values.items()} == {"w1": [3.0, 4.0]}
    with pytest.raises(UserError, match=r"lacks w2\b.*\b1 of 2 variables"):
        read_source(str(tmp_path), "shifted:0", {}, {})


def test_5_of_a_saver_of_a_dict_keys_and_variables_are_told_apart(tmp_path: Path) -> None:
    # Each key is the other variable's name: going by names would load the wrong one and raise nothing.
    save_some(tmp_path, lambda w1, w2: {"w2": w1, "w1": w2})
    assert {v.name: v.key for v in variables_of(tmp_path)} == {"w1": "w2", "w2": "w1"}
    values = read_values(read_source(str(tmp_path), "shifted:0", {}, {}))
    assert {name: value.tolist() for name, value in values.items()} == {"w1": [3.0, 4.0], "w2": [5.0, 6.0]}


# 6. The placeholder graph, restored, fed anew, and with an op added ---------------------------------------------------

FEEDS = [((4.0, 8.0), 24.0), ((13.0, 17.0), 60.0)]


def scalar_model(source: Source) -> Model:
    """The tutorial's graph with a head, made by hand: a cut of unknown shape is one that `graft` refuses."""
    flatten = partial(heads.flatten, how="expand")
    joined = Graft("head", heads.linear_variables(1, 2), flatten, heads.linear, cut=source.cut)
    variants = make_variants(source, True, [])
    forward = as_function(features_program(variants.evaluation), [f"features/{source.cut}"])
    return Model(
        grafts=(joined,),
        trained=(joined,),
        shapes={source.cut: (None,)},
        said="",
        inputs=source.inputs,
        variants=variants,
        behind=variants,
        forward=forward,
        features=forward,
        step=forward,
        first_nonfinite=lambda given: None,
        rates={},
        updated=frozenset(),
    )


def write(folder: Path, source: Source, model: Model) -> dict[str, Any]:
    """Our pair of a source and a head; gives the values in it."""
    values = {**read_values(source), **heads.initial_values(model.new_variables, seed=0)}
    export.write_pair(folder, pair_graph(source, model), values, source.pieces(), {})
    return values


def tutorial_restores(folder: Path, feeds: Mapping[str, Any], *wanted: str) -> list[Any]:
    """The tutorial's own lines: the tensors of a pair, and the op that it adds."""
    with tf.Graph().as_default() as imported, tf1.Session() as session:
        (meta,) = folder.glob("*.meta")
        saver = tf1.train.import_meta_graph(str(meta))
        saver.restore(session, tf1.train.latest_checkpoint(str(folder)))
        tensors = {tensor: imported.get_tensor_by_name(tensor) for tensor in wanted}
        added = tf.multiply(next(iter(tensors.values())), 2)
        fed = {imported.get_tensor_by_name(tensor): value for tensor, value in feeds.items()}
        return session.run([*tensors.values(), added], fed)


@pytest.fixture(params=[False, True], ids=["reference", "resource"])
def placeholders(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_placeholders(tmp_path / "source", resource=request.param)


def test_6_plain_tensorflow_gives_the_numbers_of_the_tutorial(placeholders: Path) -> None:
    for (w1, w2), expected in FEEDS:
        found = tutorial_restores(placeholders, {"w1:0": w1, "w2:0": w2}, "op_to_restore:0")
        assert found == [expected, 2 * expected]  # 60 with the op that multiplies by 2: 120


def test_6_our_engine_gives_the_numbers_of_the_tutorial(placeholders: Path) -> None:
    source = read_source(str(placeholders), "op_to_restore", {"w1": "w1:0", "w2": "w2:0"}, {})
    values = read_values(source)
    assert {name: float(value) for name, value in values.items()} == {"bias": 2.0}
    forward = scalar_model(source).forward
    for (w1, w2), expected in FEEDS:
        fed = {"input/w1": tf.constant(w1), "input/w2": tf.constant(w2), "variable/bias": tf.constant(values["bias"])}
        assert float(forward(fed)[f"features/{source.cut}"]) == expected


def test_6_our_pair_gives_the_numbers_of_the_tutorial(placeholders: Path, tmp_path: Path) -> None:
    source = read_source(str(placeholders), "op_to_restore", {"w1": "w1:0", "w2": "w2:0"}, {})
    write(tmp_path / "ours", source, scalar_model(source))
    for (w1, w2), expected in FEEDS:
        found = tutorial_restores(tmp_path / "ours", {"w1:0": w1, "w2:0": w2}, "op_to_restore:0")
        assert found == [expected, 2 * expected]


def test_6_many_examples_at_once_through_our_graft_and_our_pair(tmp_path: Path) -> None:
    source = read_source(
        str(save_placeholders(tmp_path / "source", shape=[None])), "op_to_restore", {"w1": "w1:0", "w2": "w2:0"}, {}
    )
    model = graft(make_variants(source, True, []), {"head": Head()}, [softmax_of(2, source.cut)])
    values = write(tmp_path / "ours", source, model)
    feeds = {"w1:0": [4.0, 13.0], "w2:0": [8.0, 17.0]}
    features, logits, doubled = tutorial_restores(tmp_path / "ours", feeds, "op_to_restore:0", "head/logits:0")
    assert features.tolist() == [24.0, 60.0]
    assert doubled.tolist() == [48.0, 120.0]
    np.testing.assert_allclose(logits, features[:, np.newaxis] @ values["head/kernel"] + values["head/bias"], rtol=1e-6)


def test_6_a_cut_of_unknown_width_takes_no_head(placeholders: Path) -> None:
    source = read_source(str(placeholders), "op_to_restore", {"w1": "w1:0", "w2": "w2:0"}, {})
    with pytest.raises(UserError, match="does not say how wide the cut is"):
        graft(make_variants(source, True, []), {"head": Head()}, [softmax_of(2, source.cut)])


def test_6_one_batch_tells_the_width_that_the_file_does_not(placeholders: Path) -> None:
    source = read_source(str(placeholders), "op_to_restore", {"w1": "w1:0", "w2": "w2:0"}, {})
    values = {f"variable/{name}": value for name, value in read_values(source).items()}
    batch = {"input/w1": np.float32([4, 13]), "input/w2": np.float32([8, 17])}
    model = graft(
        make_variants(source, True, []),
        {"head": Head()},
        [softmax_of(2, source.cut)],
        probe=lambda: {**values, **batch},
    )
    assert model.shapes == {"op_to_restore:0": (None,)}
    head = {f"variable/{name}": value for name, value in heads.initial_values(model.new_variables, 0).items()}
    found = model.forward({**values, **head, **batch, "target/head": np.int64([0, 1])})
    logits = np.float32([[24], [60]]) @ head["variable/head/kernel"] + head["variable/head/bias"]
    expected = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(found["head/probabilities"], expected / expected.sum(1, keepdims=True), rtol=1e-5)


# 7. The VGG graft: import the graph, take fc7, stop the gradient, two new outputs -------------------------------------


def test_7_plain_tensorflow_gets_the_accuracy_that_the_run_reports(run: Run, seen: Mapping[str, Any]) -> None:
    assert seen["ours"] == []
    assert seen["finished"]["accuracy"] == run.record["metrics"]["accuracy"]
    # The accuracy of a short run is near chance, where wrong images might agree by luck; the loss would not.
    assert seen["finished"]["loss"] == pytest.approx(run.record["metrics"]["loss"], rel=1e-5)


def test_7_the_mode_feed_needs_no_value_and_can_still_be_fed(seen: Mapping[str, Any]) -> None:
    assert seen["finished"]["feeding 1.0 changes"] == 0


def test_7_the_old_names_are_unchanged(seen: Mapping[str, Any], below: Source) -> None:
    ops = set(seen["finished"]["ops"])
    assert set(below.below.nodes) <= ops
    assert {f"{v.name}/read" for v in below.variables} <= ops
    assert {name for name in ops if name.startswith("head")} >= {"head/kernel", "head/bias", "head/logits"}
    assert seen["finished"]["fc7"] == [None, 1, 1, 256]


def test_7_frozen_variables_are_bit_identical_to_the_source(run: Run, seen: Mapping[str, Any], below: Source) -> None:
    assert len(below.variables) == 14
    assert seen["finished"]["moved"] == []
    ours, theirs = find_pair(str(run.model)), read_values(below)
    found = read_tensors(ours.prefix, theirs)
    assert {name: value.tobytes() for name, value in found.items()} == {n: v.tobytes() for n, v in theirs.items()}


def test_7_the_head_has_learned(run: Run) -> None:
    shapes = {"head/kernel": (256, 2), "head/bias": (2,)}
    start = heads.initial_values(shapes, seed=0)
    found = read_tensors(find_pair(str(run.model)).prefix, shapes)
    assert {name: value.shape for name, value in found.items()} == shapes
    assert not any(np.array_equal(found[name], start[name]) for name in shapes)


# 8. The single-file checkpoint of TensorFlow 0.11 and older -----------------------------------------------------------


@pytest.mark.parametrize("given", ["", "old.ckpt", "old.ckpt.meta"])
def test_8_a_v1_checkpoint_is_found_and_read(tmp_path: Path, given: str) -> None:
    save_two(tmp_path, "old.ckpt", step=None, write_version=tf1.train.SaverDef.V1)
    assert names(tmp_path.iterdir()) == {"checkpoint", "old.ckpt", "old.ckpt.meta"}
    pair = find_pair(str(tmp_path / given))
    assert resolved(pair) == (tmp_path / "old.ckpt.meta", tmp_path / "old.ckpt")
    assert {key: entry.shape for key, entry in read_index(pair.prefix).items()} == {"w1": (2,), "w2": (5,)}
    found = read_tensors(pair.prefix, ["w1", "w2"])
    assert {name: value.tolist() for name, value in found.items()} == {"w1": [0.5, -1.5], "w2": [0, 1, 2, 3, 4]}


@dataclass(frozen=True)
class Golden:
    folder: Path
    about: Mapping[str, Any]
    answers: Mapping[str, np.ndarray]

    def source(self) -> Source:
        return read_source(str(self.folder), self.about["cut"], self.about["inputs"], self.about["eval_feeds"])


def golden(name: str) -> Golden:
    folder = GOLDENS / name
    with np.load(folder / "answers.npz") as answers:
        return Golden(folder, json.loads((folder / "golden.json").read_text(encoding="utf-8")), dict(answers))


@pytest.mark.parametrize("name", ["v1_checkpoint", "dict_saver"])
def test_5_and_8_the_engine_answers_as_a_tensorflow_1_session_did(name: str) -> None:
    truth = golden(name)
    source = truth.source()
    assert {v.name: v.key for v in source.variables} == truth.about["keys"]
    values = {**read_values(source), **{n: truth.answers[n] for n in ("head/kernel", "head/bias")}}
    backbone = make_backbone(source.whole, [source.cut], source.inputs, source.feeds)
    width, classes = truth.answers["head/kernel"].shape
    joined = Graft("head", heads.linear_variables(width, classes), partial(heads.flatten, how="as_is"), heads.linear)
    fed = {f"variable/{name}": tf.constant(value) for name, value in values.items()}
    fed |= {f"input/{field}": tf.constant(truth.answers[f"input/{field}"]) for field in source.inputs}
    fed["target/head"] = tf.constant(truth.answers["labels"], tf.int64)

    forward = as_function(forward_program(backbone, [joined]))(fed)
    step = as_function(step_program(backbone, [joined], dict.fromkeys(values, True), []))(fed)
    found = {"features": forward["features"], "logits": forward["head/logits"], **step}
    wanted = {
        k: v for k, v in truth.answers.items() if k in ("features", "logits", "loss") or k.startswith("gradient/")
    }
    assert len(wanted) == 3 + len(values)
    for answer, value in wanted.items():
        np.testing.assert_allclose(found[answer], value, rtol=1e-5, atol=1e-6, err_msg=answer)


@pytest.mark.parametrize("name", ["v1_checkpoint", "dict_saver"])
def test_5_and_8_a_run_turns_it_into_a_pair_of_today(name: str, workdir: Path) -> None:
    truth = golden(name)
    (field,) = truth.about["inputs"]
    rows = {field: truth.answers[f"input/{field}"], "labels": truth.answers["labels"]}
    np.savez(workdir / "rows.npz", **{key: np.repeat(value, 4, axis=0) for key, value in rows.items()})
    (workdir / "old.yaml").write_text(
        f"source: {{path: '{truth.folder}'}}\n"
        f"cut: '{truth.about['cut']}'\n"
        "data: {kind: arrays, path: rows.npz, preprocess: none}\n"
        "train: {steps: 2, batch_size: 4}\n"
    )
    assert main(["recipe=old.yaml", "run.dir=run"]) == 0
    model = workdir / "run" / "model"
    assert (model / "model.index").exists()
    old = read_values(truth.source())
    new = tf.train.load_checkpoint(str(model / "model"))
    assert {name: new.get_tensor(name).tobytes() for name in old} == {n: v.tobytes() for n, v in old.items()}
    given = truth.about["inputs"][field]
    features, *_ = tutorial_restores(model, {given: rows[field]}, truth.about["cut"])
    np.testing.assert_allclose(features, truth.answers["features"], rtol=1e-5, atol=1e-6)


# 9. The same command again --------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder: when it was changed, and what is in it."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in files
    }


def test_9_the_same_command_again_changes_no_file(run: Run) -> None:
    before = contents(run.folder)
    assert {"run.json", "train.log", "model/model.meta", "checkpoints/model-8.index"} <= set(before)
    again = finetune(RECIPE, run.folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("finished:")
    assert run.record["result"] in again.stdout
    assert contents(run.folder) == before


# 10. Our pair as the source of the next fine-tune ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "scope", "shape"),
    [
        (["cut=fc7:0"], "head", (256, 2)),
        (["cut=head/logits:0", "head.name=head2"], "head2", (2, 2)),
    ],
    ids=["at the old cut", "behind the first head"],
)
def test_10_our_pair_is_a_source(
    run: Run, tmp_path: Path, words: list[str], scope: str, shape: tuple[int, ...], below: Source
) -> None:
    folder = tmp_path / "next"
    command = ["recipe=vgg_2class", f"source.path={run.model}", "train.steps=2", f"run.dir={folder}", *words]
    assert main(command) == 0
    first, second = read_tensors_of(run.model), read_tensors_of(folder / "model")
    kept = {v.name for v in below.variables} | ({"head/kernel", "head/bias"} if scope != "head" else set())
    assert set(second) == kept | {f"{scope}/kernel", f"{scope}/bias"}
    assert second[f"{scope}/kernel"].shape == shape
    assert all(second[name].tobytes() == first[name].tobytes() for name in kept)
    if scope == "head":
        assert not np.array_equal(second["head/kernel"], first["head/kernel"])
    images = {"images:0": np.zeros([3, 28, 28, 1], np.float32)}
    chances, *_ = tutorial_restores(folder / "model", images, f"{scope}/probabilities:0")
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)


def read_tensors_of(folder: Path) -> dict[str, np.ndarray]:
    prefix = find_pair(str(folder)).prefix
    return read_tensors(prefix, read_index(prefix))
