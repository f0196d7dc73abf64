"""Promise: plain TensorFlow loads the pair that we write, with the numbers that we had, and it is itself a source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import (
    GOLDENS,
    Arrays,
    Golden,
    arguments,
    arrays,
    every_golden,
    features_of,
    model_of,
    same_bits,
    source_of,
)

from finetune.engine.compile import as_function, forward_program
from finetune.engine.graft import Model, pair_graph
from finetune.names import node_of
from finetune.reading import metagraph
from finetune.results import export
from finetune.surgery.backbone import make_backbone, mode_feeds
from finetune.surgery.source import Source, read_values

OUTPUTS = ("features", "head/logits", "head/probabilities")
Ask = Callable[[Path, list[dict[str, Any]], Arrays], tuple[dict[str, Any], Arrays]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Asks another process, in which there is TensorFlow and nothing of ours, about a pair."""
    folder = tmp_path_factory.mktemp("plain")
    command = [sys.executable, str(Path(__file__).with_name("plain_tensorflow.py"))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipe = subprocess.PIPE
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=errors, text=True, cwd=folder, env=environment
        )

    def ask(pair: Path, asks: list[dict[str, Any]], batch: Arrays) -> tuple[dict[str, Any], Arrays]:
        assert process.stdin
        assert process.stdout
        np.savez(folder / "batch.npz", **batch)
        files = {"batch": str(folder / "batch.npz"), "out": str(folder / "out.npz")}
        process.stdin.write(json.dumps({"folder": str(pair), "asks": asks, **files}) + "\n")
        process.stdin.flush()
        about = json.loads(process.stdout.readline() or "{}")
        assert "keys" in about, about.get("error") or (folder / "stderr").read_text()
        with np.load(folder / "out.npz") as found:
            return about, dict(found)

    with process:
        yield ask
        assert process.stdin
        process.stdin.close()


@dataclass(frozen=True)
class Written:
    """A pair, and what it was written from."""

    folder: Path
    source: Source
    model: Model
    values: Arrays


def write(golden: Golden, source: Source, folder: Path, **head: Any) -> Written:
    """The pair of a source and the golden's head, with other weights than the source's."""
    model = model_of(source, stop_gradient=True, **head)
    weights = dict(zip(model.new_variables, golden.head.values(), strict=True))
    values = {**{name: value * np.float32(1.25) for name, value in read_values(source).items()}, **weights}
    export.write_pair(folder, pair_graph(source, model), values, source.pieces(), beside={})
    return Written(folder, source, model, values)


def ours(golden: Golden, written: Written, phase: str) -> Arrays:
    """Features, logits and probabilities by the engine."""
    source = written.source
    backbone = make_backbone(source.whole, [source.cut], source.inputs, mode_feeds(source.feeds, phase))
    program = as_function(forward_program(backbone, written.model.grafts), OUTPUTS)
    return arrays(program(arguments(written.values, golden.batch)))


def by_tensor(golden: Golden) -> dict[str, str]:
    return {tensor: field for field, tensor in golden.inputs.items()}


@every_golden
def test_plain_tensorflow_loads_the_pair_and_has_our_numbers(golden: Golden, plain: Ask, tmp_path: Path):
    source = source_of(golden)
    written = write(golden, source, tmp_path / "written")
    moved = written.folder.rename(tmp_path / "moved")

    fetches = [golden.cut, "head/logits:0", "head/probabilities:0"]
    # In evaluation nothing is fed but the batch; in training the old mode feeds can be fed, under their old names.
    modes = {"eval": {}, "train": golden.feeds["train"]}
    asks = [{"feeds": {**by_tensor(golden), **modes[phase]}, "fetches": fetches} for phase in golden.phases]
    about, found = plain(moved, asks, golden.batch)
    for number, phase in enumerate(golden.phases):
        truth = {output: found[f"{number}/{name}"] for output, name in zip(OUTPUTS, fetches, strict=True)}
        same_bits(ours(golden, written, phase), truth)

    pieces = source.pieces()
    keys = [pieces.get(v.name, (v.name, ""))[0] for v in source.variables] + list(golden.head)
    assert sorted(about["keys"]) == sorted(set(keys))
    assert sorted(about["variables"]) == sorted([*golden.keys, *golden.head])
    assert sorted(about["trainable"]) == sorted([*golden.trainable, *golden.head])
    assert about["prefix"] == str(moved / "model")
    assert (about["devices"], about["without_gradient"], about["ours"]) == ([], [], [])


@every_golden
def test_the_pair_keeps_the_names_and_nothing_else_of_the_source(golden: Golden, tmp_path: Path):
    source = source_of(golden)
    written = write(golden, source, tmp_path / "written")
    paths = sorted(path.name for path in written.folder.iterdir())
    assert paths == ["checkpoint", "model.data-00000-of-00001", "model.index", "model.manifest", "model.meta"]
    assert "/" not in (written.folder / "checkpoint").read_text()

    nodes = {node.name: node for node in metagraph.read(written.folder / "model.meta").graph_def.node}
    replaced = {node_of(t) for t in (*source.inputs.values(), *source.feeds)}
    for name, node in source.below.nodes.items():
        assert name in replaced or nodes[name].op == node.op, name
        assert name in replaced or list(nodes[name].input) == list(node.input), name
    assert all(nodes[name].op.startswith("Placeholder") for name in replaced)
    assert {node.device for node in nodes.values()} == {""}
    added = nodes.keys() - source.below.nodes.keys()
    assert not [name for name in added if name.startswith(("gradients/", "fc8")) or "Adam" in name]


@every_golden
def test_the_pair_is_a_source_and_does_not_grow(golden: Golden, tmp_path: Path):
    source = source_of(golden)
    rounds = [write(golden, source, tmp_path / "0")]
    for number in (1, 2):
        # With no mode feeds: the pair has its own defaults.
        again = source_of(golden, path=str(rounds[-1].folder), feeds={})
        rounds.append(write(golden, again, tmp_path / str(number)))
    first, second, third = (written.source for written in rounds)
    assert [v.name for v in first.variables] == [v.name for v in second.variables]
    assert {v.name for v in second.variables if v.trainable} == set(golden.trainable)
    assert [u.node for u in first.updates] == [u.node for u in second.updates] == [u.node for u in third.updates]
    assert list(second.below.nodes) == list(third.below.nodes)
    assert list(second.whole.nodes) == list(third.whole.nodes)
    same_bits(read_values(second), {name: rounds[0].values[name] for name in golden.keys})
    # The first two of them at the same weights, one told what the mode is, the other not.
    truth = features_of(second, golden.feeds["eval"])(golden.batch)
    same_bits({"features": features_of(second, {})(golden.batch)}, {"features": truth})
    same_bits({"features": ours(golden, rounds[0], "eval")["features"]}, {"features": truth})


@pytest.mark.parametrize("name", ["bn_cond", "rnn_while"])
def test_a_head_on_a_head(name: str, plain: Ask, tmp_path: Path):
    """The pair cut behind its own head, which then is a part of the source like any other."""
    golden = GOLDENS[name]
    pair = write(golden, source_of(golden), tmp_path / "first")
    source = source_of(golden, at="head/logits:0", path=str(pair.folder), feeds={})
    model = model_of(source, name="second")
    assert {*golden.head, "second/kernel"} <= model.rates.keys()
    values = {
        **read_values(source),
        "second/kernel": np.eye(3, dtype=np.float32),
        "second/bias": np.zeros(3, np.float32),
    }
    export.write_pair(tmp_path / "second", pair_graph(source, model), values, source.pieces(), beside={})
    asks = [{"feeds": by_tensor(golden), "fetches": [golden.cut, "head/logits:0", "second/logits:0"]}]
    about, found = plain(tmp_path / "second", asks, golden.batch)
    assert {*golden.head, "second/kernel", "second/bias"} <= set(about["keys"])
    same_bits({"logits": found["0/second/logits:0"]}, {"logits": found["0/head/logits:0"]})


def test_a_pair_that_is_written_again_takes_the_place_of_the_old(tmp_path: Path):
    golden = GOLDENS["dense_resource"]
    source = source_of(golden)
    written = write(golden, source, tmp_path / "pair")
    (written.folder / "left.txt").write_text("of an earlier run")
    write(golden, source, tmp_path / "pair")
    assert [path.name for path in tmp_path.iterdir()] == ["pair"]
    assert not (written.folder / "left.txt").exists()
