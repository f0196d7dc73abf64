"""What a hostile pair may not do: each attempt, and how it ends before TensorFlow sees the file.

What must not happen is watched from outside where that is possible: `strace` lists every file and socket.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune import packaged
from finetune.__main__ import main
from finetune.errors import UserError
from finetune.graph import constant
from finetune.inspecting.inspect import inspect
from finetune.protos import GraphDef, MetaGraphDef
from finetune.reading.metagraph import find_pair, read
from finetune.reading.weights import read_index
from finetune.results.checkpoints import Retention as Keep
from finetune.results.checkpoints import save
from finetune.showing import table
from finetune.surgery.allowed_ops import ALLOWED, REFUSED
from finetune.surgery.costs import MOST_VALUES
from finetune.surgery.source import read_source, read_values
from finetune.surgery.specialize import portable
from finetune.surgery.trust import check_graph
from finetune.surgery.variants import make_variants
from tests.acceptance.mutants import copied, fields_changed, settled, survive
from tests.graphs import INT, INT64, STRING, fed, golden, graph, make_node, node, refusal, strings, variable
from tests.reading.test_weights import HOSTILE_ENTRIES, HOSTILE_HEADERS, block, entry, header
from tests.reading.test_weights import table as packed
from tests.surgery.test_source import pair

DEMO = Path(packaged.asset("demo")) / "small_vgg"
RECIPE = ["recipe=vgg_2class", "train.steps=2"]


def finetune(*words: str, cwd: Path, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "finetune", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=250, check=False)


def hostile(folder: Path, *nodes: Any) -> str:
    """A pair whose `out` reads x, which the last node makes; its weights are whole."""
    folder.mkdir(exist_ok=True)
    return pair(folder, variable("sentence/bias", 5), *nodes)


def refused(folder: Path, *nodes: Any) -> UserError:
    return refusal(read_source, hostile(folder, *nodes), "out", {"y": "sentence/bias:0"}, {})


def reading(canary: Path, op: str = "ReadFile") -> list[Any]:
    return [strings("name", str(canary)), node("bad", op, "name"), node("x", "StringToNumber", "bad")]


def function(name: str, *nodes: Any) -> Any:
    result = GraphDef().library.function.add(node_def=nodes)
    result.signature.name = name
    return result


def call(name: str, callee: str, op: str = "PartitionedCall", key: str = "f") -> Any:
    result = node(name, op, "x")
    result.attr[key].func.name = callee
    return result


# ---- 47: size


def long_graph(count: int) -> Any:
    """A graph of so many nodes, most of them an optimizer's, with the golden's own below the cut."""
    meta = MetaGraphDef()
    meta.CopyFrom(golden("dense_resource").meta)
    for number in range(count // 2):
        meta.graph_def.node.append(node(f"gradients/g{number}", "Mul", f"gradients/g{max(number - 1, 0)}", "fc8/bias"))
        meta.graph_def.node.append(node(f"train/slot{number}", "Identity", f"gradients/g{number}"))
    return meta


def took_to_read(folder: Path, count: int) -> float:
    copied("dense_resource", folder)
    (folder / "model.meta").write_bytes(long_graph(count).SerializeToString())
    began = time.perf_counter()
    settled(folder, "dense_resource")
    inspect(str(folder))
    return time.perf_counter() - began


def test_47_the_time_to_read_a_graph_grows_as_the_graph_does(tmp_path: Path):
    short, long = (took_to_read(tmp_path / str(count), count) for count in (5_000, 40_000))
    assert long < 30 * short  # eight times the nodes; were it quadratic, 64 times the time


@pytest.mark.slow
def test_47_half_a_million_nodes_are_read_in_a_minute(tmp_path: Path):
    copied("dense_resource", tmp_path / "pair")
    (tmp_path / "pair" / "model.meta").write_bytes(long_graph(500_000).SerializeToString())
    code = (
        "import resource, sys, time; from finetune.inspecting.inspect import inspect; began = time.perf_counter();"
        "inspect(sys.argv[1]); print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pair")]
    seconds, kilobytes = map(float, subprocess.check_output(command, timeout=250).split())
    assert seconds < 60
    assert kilobytes < 4 * 2**20


# ---- 48 to 57: ops


def test_48_a_file_is_not_read(tmp_path: Path):
    error = refused(tmp_path / "pair", *reading(tmp_path / "canary"))
    assert (error.where, error.what) == ("bad", "ReadFile reads files")


def test_49_no_address_is_asked(tmp_path: Path):
    nodes = [
        *reading(tmp_path / "canary")[:2],
        strings("host", "gs://bucket/"),
        node("url", "StringJoin", "host", "bad"),
    ]
    nodes += [node("ask", "ReadFile", "url"), node("x", "StringToNumber", "ask")]
    assert "ReadFile reads files" in refused(tmp_path / "pair", *nodes).what


@pytest.mark.parametrize("op", ["DebugIdentity", "DebugIdentityV2", "DebugNanCount", "DebugNumericSummary"])
def test_50_nothing_is_written_for_debugging(tmp_path: Path, op: str):
    bad = node("bad", op, "sentence/bias", tensor_name={"s": b"../../x"})
    bad.attr["debug_urls"].list.s.append(f"file://{tmp_path}/out".encode())
    error = refused(tmp_path / "pair", bad, node("x", "Identity", "bad"))
    assert (error.where, error.what) == ("bad", f"{op} writes files")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("op", ["MatchingFiles", "GenerateVocabRemapping", "LoadAndRemapMatrix"])
def test_51_no_folder_is_listed_and_no_vocabulary_read(tmp_path: Path, op: str):
    assert refused(tmp_path / "pair", *reading(tmp_path / "canary", op)).what == f"{op} reads files"


@pytest.mark.parametrize("op", ["InitializeTableFromTextFile", "InitializeTableFromTextFileV2"])
def test_51_no_table_is_filled_from_a_file(tmp_path: Path, op: str):
    nodes = [make_node("words", "HashTableV2"), strings("name", "/etc/passwd"), node("fill", op, "words", "name")]
    nodes += [
        fed("in", 4, dtype=STRING),
        constant("none", 0, INT64),
        node("x", "LookupTableFindV2", "words", "in", "none"),
    ]
    source = hostile(tmp_path / "pair", *nodes)
    error = refusal(read_source, source, "out", {"y": "sentence/bias:0", "in": "in:0"}, {})
    assert "not filled from constants" in error.what


@pytest.mark.parametrize("op", ["PyFunc", "PyFuncStateless", "EagerPyFunc"])
def test_52_no_python_is_run(tmp_path: Path, op: str):
    bad = node("x", op, "sentence/bias", token={"s": b"pyfunc_0"})
    assert "runs Python code" in refused(tmp_path / "pair", bad).what


@pytest.mark.parametrize("op", ["WriteFile", "SaveV2", "MergeV2Checkpoints", "WriteSummary", "CreateSummaryFileWriter"])
def test_53_what_is_only_waited_for_never_reaches_tensorflow(tmp_path: Path, op: str):
    write = [strings("name", str(tmp_path / "out")), node("write", op, "name")]
    waits = node("x", "Identity", "in", "^write")
    source = read_source(hostile(tmp_path / "pair", *write, fed("in", 4), waits), "out", {"in": "in:0"}, {})
    assert "write" in source.whole.nodes
    assert "write" not in source.below.nodes
    assert refused(tmp_path / "other", *write, node("x", "Identity", "write")).where == "write"


def test_54_what_the_cut_does_not_need_is_dropped(tmp_path: Path):
    nodes = [fed("in", 4), node("x", "Relu", "in"), *reading(tmp_path / "canary")[:2], node("write", "WriteFile", "x")]
    source = read_source(hostile(tmp_path / "pair", *nodes), "out", {"in": "in:0"}, {})
    assert {"bad", "write"} <= set(source.whole.nodes)
    assert not {"bad", "write"} & set(source.below.nodes)


CALLS = [("PartitionedCall", "f"), ("If", "then_branch"), ("StatelessWhile", "body"), ("While", "cond")]


@pytest.mark.parametrize(("op", "key"), CALLS)
def test_55_functions_are_looked_into_however_they_are_called(op: str, key: str):
    inner = function("h", node("write", "WriteFile"))
    functions = (function("f", call("c", "g", op, key)), function("g", call("c", "h", op, key)), inner)
    source = replace(graph(fed("x", 3), call("call", "f", op, key)), functions=functions)
    error = refusal(check_graph, source)
    assert (error.where, error.what) == ("call → f → g → h → write", "WriteFile writes files")


def test_55_functions_in_a_list_and_behind_a_control_input_are_looked_into():
    case = node("call", "Case", "x")
    case.attr["branches"].list.func.add(name="good")
    case.attr["branches"].list.func.add(name="bad")
    waits = node("out", "Identity", "a", "^write")
    functions = (function("good"), function("bad", node("write", "WriteFile"), waits))
    error = refusal(check_graph, replace(graph(fed("x", 3), case), functions=functions))
    assert error.where == "call → bad → write"


def test_55_functions_without_an_end_are_refused():
    functions = (function("f", call("c", "g")), function("g", call("c", "f")))
    source = replace(graph(fed("x", 3), call("call", "f")), functions=functions)
    assert "calls itself: f → g → f" in refusal(check_graph, source).what


@pytest.mark.parametrize(
    "op",
    ["DatasetFromGraph", "XlaCallModule", "OneShotIterator", "MlirPassthroughOp", "RemoteCall", "DeserializeIterator"],
)
def test_56_no_program_inside_the_program_is_run(tmp_path: Path, op: str):
    assert refused(tmp_path / "pair", *reading(tmp_path / "canary", op)).where == "bad"


def test_57_an_op_is_refused_unless_it_is_listed(tmp_path: Path):
    # tests/surgery/test_trust.py holds the list against every op of the installed TensorFlow.
    listed = {op for ops in REFUSED.values() for op in ops if not set("*>") & set(op)}
    assert not listed & ALLOWED
    for number, op in enumerate(sorted(listed)[::20]):
        assert refused(tmp_path / str(number), *reading(tmp_path / "canary", op)).where == "bad"


# ---- 58: names that a Saver, or a session, would run


def forged(folder: Path, canary: Path) -> Path:
    """The demo's pair with an op that writes a file wherever a file names an op to be run."""
    shutil.copytree(DEMO, folder)
    (path,) = folder.glob("*.meta")
    meta = read(path)
    write = node("forged/write", "WriteFile", "forged/name", "forged/text")
    write.attr.pop("T")
    for text, value in (("forged/name", str(canary)), ("forged/text", "executed")):
        one = strings(text, value)
        one.attr["value"].tensor.tensor_shape.ClearField("dim")
        meta.graph_def.node.append(one)
    meta.graph_def.node.append(write)
    meta.saver_def.restore_op_name = "forged/write"
    meta.saver_def.save_tensor_name = "forged/write:0"
    for collection in ("init_op", "local_init_op", "ready_op", "train_op", "table_initializer", "summary_op"):
        meta.collection_def[collection].node_list.value[:] = ["forged/write"]
    for each in meta.graph_def.node:
        if each.op in ("MatMul", "Conv2D", "Assign"):
            each.input.append("^forged/write")
    path.write_bytes(meta.SerializeToString())
    return folder


def test_58_no_name_in_a_file_is_ever_run(workdir: Path, capsys: pytest.CaptureFixture[str]):
    source = forged(workdir / "pair", workdir / "canary")
    words = [f"source.path={source}", "run.dir=run", "stop_gradient=false", "source.feeds.keep_prob=0.5"]
    assert main([*RECIPE, *words]) == 0, capsys.readouterr().err
    assert not (workdir / "canary").exists()
    assert b"forged" not in (workdir / "run" / "model" / "model.meta").read_bytes()


# ---- 59: what a few bytes unfold to


def integers(name: str, *values: int) -> Any:
    return constant(name, list(values), INT)


BOMBS: dict[str, list[Any]] = {
    "Fill": [integers("dims", 60_000, 60_000), constant("v", 1.0), node("bomb", "Fill", "dims", "v")],
    "a rank": [
        integers("dims", 30000000),
        constant("v", 1, INT),
        node("bomb", "Fill", "dims", "v"),
        node("x", "Reshape", "data", "bomb"),
    ],
    "Tile": [integers("times", 2**30), integers("v", 1, 2), node("bomb", "Tile", "v", "times")],
    "Range": [
        constant("a", 0, INT),
        constant("b", 2**31 - 1, INT),
        constant("c", 1, INT),
        node("bomb", "Range", "a", "b", "c"),
    ],
    "BroadcastTo": [integers("dims", 2**15, 2**15), constant("v", 1.0), node("bomb", "BroadcastTo", "v", "dims")],
    "OneHot": [integers("i", *range(100)), constant("n", 2**30, INT), node("bomb", "OneHot", "i", "n", "i", "i")],
    "Pad": [constant("v", [1.0]), constant("pads", [[2**30, 0]], INT), node("bomb", "Pad", "v", "pads")],
    "LinSpace": [constant("a", 0.0), constant("n", 2**30, INT), node("bomb", "LinSpace", "a", "a", "n")],
    "RandomUniform": [integers("dims", 2**20, 2**20), node("bomb", "RandomUniform", "dims")],
    "a size that is computed": [
        integers("n", 2**20),
        node("dims", "Mul", "n", "n", T={"type": INT}),
        node("twice", "ConcatV2", "n", "n", "zero"),
        constant("zero", 0, INT),
        constant("v", 1.0),
        node("bomb", "Fill", "twice", "v"),
    ],
    "a size that cannot be told": [
        integers("n", 3),
        node("dims", "Invert", "n"),
        constant("v", 1.0),
        node("bomb", "Fill", "dims", "v"),
    ],
    "data, many times": [integers("times", 2**30), node("bomb", "Tile", "data", "times")],
    "twice, forty times": [integers("t0", 1), constant("zero", 0, INT)]
    + [node(f"t{i + 1}", "ConcatV2", f"t{i}", f"t{i}", "zero") for i in range(40)]
    + [node("bomb", "Identity", "t40")],
    "a text, forty times": [strings("t0", "a" * 1000)]
    + [node(f"t{i + 1}", "StringJoin", f"t{i}", f"t{i}") for i in range(40)]
    + [node("bomb", "Identity", "t40")],
    "a table of products": [
        constant("v", np.ones([30000, 1])),
        constant("w", np.ones([1, 30000])),
        node("bomb", "Mul", "v", "w"),
    ],
}


@pytest.mark.parametrize("what", BOMBS)
def test_59_what_constants_unfold_to_is_bounded(tmp_path: Path, what: str):
    nodes = BOMBS[what]
    last = [] if any(n.name == "x" for n in nodes) else [node("x", "AddN", "data", "bomb")]
    began = time.perf_counter()
    source = hostile(tmp_path / "pair", fed("data", 4), *nodes, *last)
    error = refusal(read_source, source, "out", {"data": "data:0"}, {})
    assert time.perf_counter() - began < 5
    assert re.search(r"values out of constants|dimensions|cannot be known before", error.what), error


def test_59_and_so_it_is_inside_functions():
    bomb = function("f", *BOMBS["Fill"])
    source = replace(graph(fed("x", 3), call("call", "f")), functions=(bomb,))
    assert refusal(check_graph, source).where == "f → bomb"


def test_59_ordinary_constants_are_let_through():
    nodes = [integers("dims", 1000, 1000), constant("v", 1.0), node("mask", "Fill", "dims", "v")]
    nodes += [constant("a", 0, INT), constant("b", 5000, INT), constant("c", 1, INT), node("r", "Range", "a", "b", "c")]
    nodes += [node("out", "Mul", "mask", "mask")]
    check_graph(graph(*nodes))
    assert MOST_VALUES > 1000 * 1000


@pytest.mark.parametrize("op", ["DecodeCompressed", "DecodePng", "DecodeJpeg", "DecodeWav", "DecodeRaw", "ParseTensor"])
def test_59_no_constant_is_decoded(tmp_path: Path, op: str):
    assert "a few bytes can take any memory" in refused(tmp_path / "pair", *reading(tmp_path / "canary", op)).what


def test_59_a_long_chain_takes_no_longer_than_its_nodes(tmp_path: Path):
    chain = [node(f"c{i}", "Identity", f"c{i - 1}" if i else "data") for i in range(5_000)]
    began = time.perf_counter()
    source = hostile(tmp_path / "pair", fed("data", 4), *chain, node("x", "Identity", "c4999"))
    assert len(read_source(source, "out", {"data": "data:0"}, {}).below.nodes) > 5_000
    assert time.perf_counter() - began < 20


def test_59_only_what_an_op_defines_reaches_tensorflow():
    each = {"_kernel": {"s": b"a"}, "_XlaMustCompile": {"b": True}, "_gradient_op_type": {"s": b"b"}, "_x": {"i": 1}}
    called = call("call", "f")
    called.attr["config_proto"].s = b"\n\7"
    called.attr["executor_type"].s = b"single_threaded"
    source = replace(graph(fed("x", 3), called, node("out", "Relu", "call", **each)), functions=(function("f"),))
    nodes = portable(source).nodes
    assert (sorted(nodes["call"].attr), sorted(nodes["out"].attr)) == (["T", "f"], ["T"])


# ---- 60 to 62: files that are made to do harm


@pytest.mark.parametrize("member", ["model.meta", "model.index", "model.data-00000-of-00001"])
@pytest.mark.parametrize("device", ["/dev/zero", "/proc/self/mem", "pipe"])
def test_60_devices_and_pipes_are_not_read(tmp_path: Path, member: str, device: str):
    folder = copied("dense_resource", tmp_path / "pair")
    (folder / member).unlink()
    if device == "pipe":
        os.mkfifo(folder / member)
    else:
        (folder / member).symlink_to(device)
    began = time.perf_counter()
    if device == "/proc/self/mem":  # which says of itself that it is an ordinary, empty file
        assert member in str(refusal(settled, folder / "model", "dense_resource"))
    else:
        assert re.search("a named pipe|a device", str(refusal(settled, folder / "model", "dense_resource")))
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("what", [*HOSTILE_HEADERS, *HOSTILE_ENTRIES])
def test_61_a_hostile_index_is_refused(tmp_path: Path, what: str):
    first = HOSTILE_HEADERS.get(what, header())
    records = {b"": first, b"w": HOSTILE_ENTRIES[what]} if what in HOSTILE_ENTRIES else {b"": first}
    (tmp_path / "model.index").write_bytes(packed([block(records)]))
    assert refusal(read_index, str(tmp_path / "model")).where == str(tmp_path / "model.index")


def hostile_indices(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Reads indices with good checksums around random messages; gives how many passed and how many were refused."""
    rng, numbers = random.Random(seed), [-1, 0, 1, 2, 24, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, -(2**63)]
    passed = 0
    for _ in range(count):
        shape = [rng.choice(numbers) for _ in range(rng.choice([0, 1, 2, 3, 300]))]
        fields = {key: rng.choice(numbers[:7]) for key in ("dtype", "shard_id", "offset", "size") if rng.random() < 0.3}
        spec = [tuple((rng.choice(numbers), rng.choice(numbers)) for _ in range(rng.randrange(3)))] * rng.randrange(3)
        content = bytearray(entry(rng.choice([shape, [2, 3], [2, 3]]), spec if rng.random() < 0.2 else None, **fields))
        if content and rng.random() < 0.3:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        name = rng.choice([b"w", b"w", b"\0", b"\xff", b"\0\1", b"a" * 1000])
        (folder / "model.index").write_bytes(packed([block({b"": header(), name: bytes(content)})]))
        try:
            passed += bool(read_index(str(folder / "model")))
        except UserError:
            continue
    return passed, count - passed


def test_61_garbage_behind_good_checksums_is_refused_or_harmless(tmp_path: Path):
    passed, failed = hostile_indices(tmp_path, 300, 61)
    assert passed
    assert failed


@pytest.mark.slow
def test_61_much_garbage_behind_good_checksums(tmp_path: Path):
    passed, failed = hostile_indices(tmp_path, 20_000, 610)
    assert passed
    assert failed


def test_62_a_graph_with_other_fields_is_refused_or_passes_all_checks(tmp_path: Path):
    passed, failed = survive(40, 62, tmp_path, fields_changed)
    assert passed
    assert failed


def test_62_what_tensorflow_says_of_names_that_are_no_text_is_one_error(tmp_path: Path):
    from finetune.engine.compile import as_function, features_program

    name = "dropout_while"
    meta = MetaGraphDef()
    meta.CopyFrom(golden(name).meta)
    enter = next(each for each in meta.graph_def.node if each.op == "Enter" and "gradients" not in each.name)
    enter.attr["frame_name"].s = b"\xd8"
    folder = copied(name, tmp_path / "pair")
    (folder / "model.meta").write_bytes(meta.SerializeToString())
    source = settled(folder, name)
    answers = np.load(golden(name).folder / "answers.npz")
    inputs = {key: answers[key] for key in answers.files if key.startswith("input/")}
    values = {f"variable/{key}": value for key, value in read_values(source).items()}
    features = as_function(features_program(make_variants(source, True, []).evaluation))
    error = refusal(features, {**values, **inputs, "seed": (0, 0)})
    assert (error.status, error.where) == (3, "cut")


@pytest.mark.slow
def test_62_a_thousand_graphs_with_other_fields(tmp_path: Path):
    passed, failed = survive(1000, 620, tmp_path, fields_changed)
    assert passed
    assert failed


# ---- 63 and 64: what is read and deleted


@pytest.mark.parametrize("named", ["/etc/passwd", "../outside/model", "*", "gs://bucket/model", "../../x", "mod?l"])
def test_63_a_state_file_leads_nowhere_else(tmp_path: Path, named: str):
    folder = copied("dense_resource", tmp_path / "pair")
    outside = copied("dense_resource", tmp_path / "outside")
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "{named}"\n')
    assert find_pair(str(folder)).prefix == str(folder / "model")
    save(folder, "model-1", {"a": np.zeros(3, np.float32)}, {}, Keep(keep=1), 1.0)
    assert sorted(f.name for f in outside.iterdir()) == sorted(
        f.name for f in golden("dense_resource").folder.iterdir()
    )
    assert (folder / "model.index").exists()


def test_63_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path):
    outside = copied("dense_resource", tmp_path / "outside")
    folder = tmp_path / "run"
    folder.mkdir()
    save(folder, "model-1", {"a": np.zeros(3, np.float32)}, {}, Keep(keep=1), 0.0)
    (folder / "model-1.index").unlink()
    (folder / "model-1.index").symlink_to(outside / "model.index")
    save(folder, "model-2", {"a": np.zeros(3, np.float32)}, {}, Keep(keep=1), 1.0)
    assert not (folder / "model-1.index").is_symlink()
    assert (outside / "model.index").exists()


def test_64_retention_deletes_what_is_its_own_and_nothing_else(tmp_path: Path):
    folder = tmp_path / "run"
    save(folder, "model-1", {"a": np.zeros(3, np.float32)}, {}, Keep(keep=1), 1.0)
    own = {f.name for f in folder.iterdir()}
    rng, decoys = random.Random(64), {}
    for number in range(1000):
        place = folder if number % 2 else tmp_path / f"sibling{number % 7}"
        place.mkdir(exist_ok=True)
        name = rng.choice(
            ["model-{}.index", "model-1.index.{}", "model-1{}.data-00000-of-00001", "amodel-1.{}", "model-1.meta{}"]
        )
        path = place / name.format(number + 2)
        if number % 10 == 0:
            path.symlink_to(folder / "model-1.index")
        else:
            path.write_text(str(number))
        decoys[path] = os.lstat(path).st_ino
    save(folder, "model-0", {"a": np.ones(3, np.float32)}, {}, Keep(keep=1), 2.0)
    assert {path: os.lstat(path).st_ino for path in decoys} == decoys
    gone = own - {f.name for f in folder.iterdir()}
    assert gone == {"model-1.index", "model-1.data-00000-of-00001", "model-1.manifest"}


# ---- 65: names


NAMES = {
    "an escape": "x\x1b[31mred",
    "a null": "x\0y",
    "a line": "x\ny",
    "a way out": "../../x",
    "a megabyte": "x" * 2**20,
}


@pytest.mark.parametrize("what", NAMES)
def test_65_names_are_shown_harmless_and_lead_to_no_file(workdir: Path, what: str, capsys: pytest.CaptureFixture[str]):
    meta = MetaGraphDef()
    meta.CopyFrom(golden("conv_ref").meta)
    old = next(n.name for n in meta.graph_def.node if n.op == "Placeholder")
    for each in meta.graph_def.node:
        each.name = NAMES[what] if each.name == old else each.name
        each.input[:] = [NAMES[what] if ref == old else ref for ref in each.input]
    folder = copied("conv_ref", workdir / "pair")
    (folder / "model.meta").write_bytes(meta.SerializeToString())
    before = sorted(workdir.rglob("*"))
    text = table(inspect(str(folder)))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert max(map(len, text.splitlines())) < 1000
    about = golden("conv_ref")
    try:
        said = str(read_source(str(folder), about.cut, {"images": f"{NAMES[what]}:0"}, about.feeds["eval"]).cut)
    except UserError as error:
        said = str(error)
    assert all(c.isprintable() or c == "\n" for c in said)
    assert len(said) < 6000
    assert what in ("a megabyte", "a way out") or "name" in said
    assert sorted(workdir.rglob("*")) == before


# ---- from outside


@pytest.mark.parametrize("verb", ["inspect", "train"])
def test_no_file_and_no_socket_is_opened_for_a_hostile_pair(tmp_path: Path, verb: str):
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    canary = tmp_path / "canary"
    canary.write_text("secret")
    folder = hostile(tmp_path / "pair", *reading(canary))
    trace = tmp_path / "trace"
    before = [strace, "-f", "-qq", "-e", "trace=openat,open,connect,socket,execve", "-o", str(trace)]
    recipe = f"source: {{path: '{folder}', inputs: {{y: sentence/bias}}}}\ncut: out\nhead: {{classes: 2}}\n"
    (tmp_path / "mine.yaml").write_text(recipe + "data: {kind: synthetic, preprocess: none}\ntrain: {steps: 1}\n")
    words = ["inspect", folder] if verb == "inspect" else ["recipe=mine.yaml", "run.dir=run"]
    result = finetune(*words, cwd=tmp_path, before=before)
    calls = trace.read_text()
    if "ptrace" in result.stderr:
        pytest.skip("this machine does not allow tracing")
    assert "model.meta" in calls
    assert str(canary) not in calls
    assert not re.search(r"socket\(AF_INET|connect\(.*AF_INET", calls)
    assert "_pywrap_tensorflow_internal" not in calls
    assert not (tmp_path / "run").exists()
    if verb == "train":
        assert result.returncode == 3
        assert "ReadFile reads files" in result.stderr
        assert len(result.stderr.splitlines()) <= 5
    else:
        assert result.returncode == 0
