"""A frozen part that is computed once: the run is the same, goes on after any kill, and says what it does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.caching import store as stores
from finetune.check import check
from finetune.compose import compose
from finetune.errors import UserError
from finetune.evaluating import evaluate
from finetune.learning import strides
from finetune.reading.weights import read_index, read_tensors
from finetune.results import checkpoints
from finetune.run import run
from finetune.running import frozen_part, session

# A run that dies leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

tf1 = tf.compat.v1
LAYERS = {"first": (6, 40), "second": (40, 40), "third": (40, 20)}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair and data of small whole numbers: whatever the order, their sums have no rounding in them."""
    folder, draw = tmp_path_factory.mktemp("exact"), np.random.default_rng(0)
    with tf.Graph().as_default(), tf1.Session() as opened:
        h = tf1.placeholder(tf.float32, [None, 6], "x")
        for name, shape in LAYERS.items():
            w = tf1.get_variable(f"{name}/w", initializer=draw.integers(-1, 2, shape).astype(np.float32))
            h = tf.nn.relu(h @ w, name)
        tf.identity(h, "features")
        opened.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(opened, str(folder / "pair/model"))
    x = draw.integers(-2, 3, (100, 6)).astype(np.float32)
    labels = (x[:, 0] > x[:, 1]).astype(np.int64)
    np.savez(folder / "data.npz", x=x, labels=labels)
    draw.shuffle(labels)
    np.savez(folder / "relabelled.npz", x=x, labels=labels)
    np.savez(folder / "rows.npz", x=x, labels=labels, more=x)
    return folder


RECIPE = """
source: {path: %s/pair/model}
cut: features:0
head: {classes: 2}
data: {kind: arrays, path: %s/data.npz, preprocess: none}
train: {steps: 23, batch_size: 16}
checkpoint: {every_steps: 8}
eval: {probe: false}
"""


def words(folder: Path, cache: Path, *more: str) -> list[str]:
    (folder / "exact.yaml").write_text(RECIPE % (folder, folder), encoding="utf-8")
    return [f"recipe={folder / 'exact.yaml'}", f"cache.dir={cache}", *more]


def start(folder: Path, given: list[str]) -> int:
    composed = compose(given)
    asked = replace(composed.recipe, run=replace(composed.recipe.run, dir=str(folder)))
    return run(asked, composed.yaml, [])


def bits(folder: Path) -> dict[str, Any]:
    """All checkpoints and pairs of a run, and its log but for the speed."""
    found: dict[str, Any] = {}
    for index in sorted(folder.rglob("*.index")):
        prefix = str(index.with_suffix(""))
        tensors = read_tensors(prefix, sorted(read_index(prefix)))
        for name, value in tensors.items():
            found[f"{index.relative_to(folder)} {name}"] = value.tolist() if value.dtype == object else value.tobytes()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return found | {"log": [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]}


def said(folder: Path) -> str:
    lines = (folder / "train.log").read_text().splitlines()
    return "\n".join(line.partition("cache: ")[2] for line in lines if "cache: " in line)


def stored(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/about.json")) if cache.exists() else []


SEVERAL = {
    "linear": [],
    "mlp": [
        "head.kind=mlp",
        "head.hidden=[8]",
        "head.dropout=0.5",
        "train.ema=0.9",
        "train.schedule=cosine",
        "train.warmup_steps=3",
    ],
    "regularised": ["train.clip_norm=0.1", "train.l2_head=0.01", "train.optimizer=sgd", "data.balance=sampling"],
    "accumulated": ["train.accumulate=2", "train.precision=mixed_float16"],
    "the last layer too": ["stop_gradient=false", "learn=[['third/.*',1],['.*',0]]", "train.l2_sp=0.1"],
    "adapters": ["stop_gradient=false", "lora={match: ['third/w'], rank: 2}"],
    "distilled": ["stop_gradient=false", "learn=[['third/.*',1],['.*',0]]", "distill={tensor: 'features:0'}"],
    "phases": [
        "stop_gradient=false",
        "phases=[{name: head, until: {step: 9}, stop_gradient: true}, {name: top, learn: [['third/.*',1],['.*',0]]}]",
    ],
}


@pytest.mark.parametrize("several", SEVERAL)
def test_what_is_read_trains_as_what_is_computed_anew_to_the_bit(several, exact, tmp_path):
    for mode in ("off", "require"):
        assert start(tmp_path / mode, words(exact, tmp_path / "cache", f"cache.mode={mode}", *SEVERAL[several])) == 0
    kept, anew = bits(tmp_path / "require"), bits(tmp_path / "off")
    assert kept.keys() == anew.keys()
    assert [name for name in kept if kept[name] != anew[name]] == []
    assert "rows to train on are computed" in said(tmp_path / "require")
    assert said(tmp_path / "off") == ""


def test_many_steps_in_one_call_give_the_bits_of_one_after_the_other(exact, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(session, "make_stride", lambda *given: made.append(1) or strides.make_stride(*given))
    more = [*SEVERAL["mlp"], "train.steps=40", "eval.every_steps=100", "checkpoint.every_steps=null"]
    assert start(tmp_path / "many", words(exact, tmp_path / "cache", *more)) == 0
    assert made
    monkeypatch.setattr(strides, "MOST_STEPS", 1)
    assert start(tmp_path / "single", words(exact, tmp_path / "cache", *more)) == 0
    assert len(made) == 1
    assert bits(tmp_path / "many") == bits(tmp_path / "single")


@pytest.mark.parametrize(("holdout", "longest"), [(0.2, 4), (0.0, 39)])
def test_strides_end_with_epochs_only_where_there_is_something_to_evaluate(
    exact, tmp_path, monkeypatch, holdout, longest
):
    taken = []

    def watched(*given):
        take = strides.make_stride(*given)
        return lambda before, last, *batch: taken.append(last - before) or take(before, last, *batch)

    monkeypatch.setattr(session, "make_stride", watched)
    more = ["train.steps=39", f"data.holdout={holdout}", "checkpoint.every_steps=null"]
    assert start(tmp_path / "run", words(exact, tmp_path / "cache", *more)) == 0
    assert (max(taken), sum(taken)) == (longest, 39)


def test_a_second_run_reads_and_another_seed_or_rate_or_label_does_too(exact, tmp_path):
    cache = tmp_path / "cache"
    start(tmp_path / "first", words(exact, cache))
    there = stored(cache)
    for name, more in {
        "rate": "train.learning_rate=0.1",
        "size": "train.batch_size=20",
        "head": "head.kind=linear",
    }.items():
        start(tmp_path / name, words(exact, cache, more))
        assert said(tmp_path / name).count("were there") == 2
    relabelled = f"data.path={exact / 'relabelled.npz'}"
    start(tmp_path / "labels", words(exact, cache, relabelled))
    assert "to train on were there" in said(tmp_path / "labels")
    assert stored(cache) == there


def test_a_killed_fill_goes_on_and_the_run_ends_with_the_same_bits(exact, tmp_path, monkeypatch):
    start(tmp_path / "whole", words(exact, tmp_path / "one"))
    write, count = stores.Store.write, 0

    def killed(self, chunk, rows):
        nonlocal count
        count += 1
        write(self, chunk, rows)
        if count == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(stores, "_SYNC_AFTER", 0.0)
    monkeypatch.setattr(stores.Store, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "killed", words(exact, tmp_path / "two"))
    assert start(tmp_path / "killed", words(exact, tmp_path / "two")) == 0
    assert count == 4  # of three chunks to train on and one held out, none twice
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")


def test_a_run_that_goes_on_after_all_that_was_kept_is_gone_ends_with_the_same_bits(exact, tmp_path, monkeypatch):
    start(tmp_path / "whole", words(exact, tmp_path / "one", *SEVERAL["mlp"]))
    save = checkpoints.save

    def once(*given):
        save(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", once)
    with contextlib.suppress(KeyboardInterrupt):
        start(tmp_path / "killed", words(exact, tmp_path / "two", *SEVERAL["mlp"]))
    monkeypatch.setattr(checkpoints, "save", save)
    for about in stored(tmp_path / "two"):
        for file in about.parent.iterdir():
            file.unlink()
    assert start(tmp_path / "killed", words(exact, tmp_path / "two", *SEVERAL["mlp"])) == 0
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")


@pytest.mark.parametrize("several", ["linear", "phases"])
def test_an_evaluation_gives_the_bits_of_the_run_with_or_without_what_it_kept(several, exact, tmp_path, capsys):
    recipe = words(exact, tmp_path / "cache", *SEVERAL[several])
    start(tmp_path / "run", recipe)
    there = stored(tmp_path / "cache")
    for turn in ("kept", "gone"):
        assert evaluate([str(tmp_path / "run"), "--out", str(tmp_path / turn)]) == 0
        ours = (tmp_path / turn / "evaluation.json").read_bytes()
        assert ours == (tmp_path / "run" / "evaluation.json").read_bytes()
        for about in there if turn == "kept" else ():
            for file in about.parent.iterdir():
                file.unlink()
    assert stored(tmp_path / "cache") == []  # an evaluation keeps nothing
    capsys.readouterr()


REASONS = {
    "off for one epoch": (["train.steps=5"], "off: 1.0 epochs are too few to gain by it"),
    "off where all learns": (["stop_gradient=false"], "off: too little is computed below what learns"),
    "mixed": (
        ["train.mixup=0.2"],
        "features:0 is computed once for the held-out examples only: those to train on are mixed",
    ),
    "no room": (["cache.max_gb=0.000001"], "off: 8e-06 GB would be kept, and cache.max_gb is 1e-06"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_it_says_what_it_does_and_why(reason, exact, tmp_path):
    more, expected = REASONS[reason]
    assert start(tmp_path / "run", words(exact, tmp_path / "cache", *more)) == 0
    assert said(tmp_path / "run").startswith(expected)


@pytest.mark.parametrize("place", ["full", "a file"])
def test_a_place_without_room_is_passed_over(place, exact, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    if place == "full":
        monkeypatch.setattr(frozen_part, "free_at", lambda _: 100)
    else:
        cache.write_text("mine")
    assert start(tmp_path / "run", words(exact, cache)) == 0
    room = {"full": "has room for 9e-08", "a file": "cannot be written"}[place]
    assert said(tmp_path / "run") == f"off: 8e-06 GB would be kept, and {cache} {room}"


def test_a_short_phase_keeps_nothing(exact, tmp_path):
    phases = "phases=[{name: head, until: {step: 2}}, {name: longer, learning_rate: 0.1}]"
    start(tmp_path / "run", words(exact, tmp_path / "cache", phases))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["kept"] == {"head": [], "longer": ["features:0"]}


@pytest.mark.parametrize("reason", ["off where all learns", "no room"])
def test_what_is_required_and_cannot_be_is_refused(reason, exact, tmp_path):
    more, expected = REASONS[reason]
    with pytest.raises(UserError) as refused:
        start(tmp_path / "run", words(exact, tmp_path / "cache", "cache.mode=require", *more))
    assert str(refused.value) == f"error[recipe] cache.mode: nothing can be kept: {expected[5:]}; set cache.mode=auto"


def test_a_run_that_goes_on_for_longer_keeps_what_it_kept_and_nothing_that_it_did_not(exact, tmp_path):
    cache = tmp_path / "cache"
    for steps in (5, 40):  # one epoch at first, which is too short
        start(tmp_path / "short", words(exact, cache, f"train.steps={steps}"))
    start(tmp_path / "whole", words(exact, cache, "train.steps=40", "cache.mode=off"))
    assert "computed once" not in said(tmp_path / "short")
    assert (
        bits(tmp_path / "short")["model/model.index head/kernel"]
        == bits(tmp_path / "whole")["model/model.index head/kernel"]
    )
    for steps in (23, 40):
        start(tmp_path / "long", words(exact, cache, f"train.steps={steps}"))
    assert said(tmp_path / "long").count("computed once") == 2
    with pytest.raises(UserError) as refused:
        start(tmp_path / "long", words(exact, cache, "train.steps=50", "cache.max_gb=0.000001"))
    assert str(refused.value).startswith(
        "error[recipe] cache.mode: this run keeps features:0, which can no longer be: "
    )


def test_half_floats_tell_what_they_cost(exact, tmp_path):
    start(tmp_path / "run", words(exact, tmp_path / "cache", "cache.dtype=float16"))
    assert "float16 makes an error of 0 of the largest value at most" in said(tmp_path / "run")
    kinds = {np.load(about.parent / "kept_0.npy", mmap_mode="r").dtype for about in stored(tmp_path / "cache")}
    assert kinds == {np.dtype(np.float16)}


@pytest.fixture(scope="module")
def spectrograms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `exact`, of rows [time, frequency] with a mean of zero, which is what augmentation hides stripes with."""
    folder, draw = tmp_path_factory.mktemp("spectrograms"), np.random.default_rng(0)
    with tf.Graph().as_default(), tf1.Session() as opened:
        x = tf1.placeholder(tf.float32, [None, 8, 6], "x")
        h = tf.reshape(x, [-1, 48])
        for number in range(3):
            w = tf1.get_variable(f"w{number}", initializer=draw.integers(-1, 2, (h.shape[1], 32)).astype(np.float32))
            h = tf.nn.relu(h @ w)
        tf.identity(h, "features")
        opened.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(opened, str(folder / "pair/model"))
    half = draw.integers(-2, 3, (60, 4, 6)).astype(np.float32)
    np.savez(folder / "data.npz", x=np.concatenate([half, -half], 1), labels=(half.sum((1, 2)) > 0).astype(np.int64))
    return folder


MASKS = ["data.augment.mask_time=0.4", "train.steps=60"]  # a second mask would take the mean that the first one left


def test_views_are_kept_and_come_in_turn(spectrograms, tmp_path):
    for mode in ("off", "require"):
        given = words(spectrograms, tmp_path / "cache", *MASKS, "cache.views=3", f"cache.mode={mode}")
        assert start(tmp_path / mode, given) == 0
    assert bits(tmp_path / "require") == bits(tmp_path / "off")
    assert "features:0 is computed once in each of 3 views for each example" in said(tmp_path / "require")
    sizes = sorted(json.loads(about.read_text())["rows"] for about in stored(tmp_path / "cache"))
    assert sizes[1] % 3 == 0
    assert sizes[1] + 3 * sizes[0] == 180


def test_without_views_only_held_out_examples_are_kept_and_training_stays_the_same(spectrograms, tmp_path):
    for mode in ("off", "auto"):
        assert start(tmp_path / mode, words(spectrograms, tmp_path / "cache", *MASKS, f"cache.mode={mode}")) == 0
    assert "held-out examples only: those to train on are varied anew each time; see cache.views" in said(
        tmp_path / "auto"
    )
    assert bits(tmp_path / "auto") == bits(tmp_path / "off")
    assert len(stored(tmp_path / "cache")) == 1


def test_views_of_examples_that_are_not_varied_are_refused(exact, tmp_path):
    with pytest.raises(UserError, match=r"cache\.views: 3 views, but the examples are not varied"):
        check(compose(words(exact, tmp_path / "cache", "cache.views=3")).recipe)


@pytest.fixture(autouse=True)
def quiet(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    capsys.readouterr()
