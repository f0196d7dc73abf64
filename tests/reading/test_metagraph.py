"""Which files make a pair, whatever the user points at, and what is wrong with those that make none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from google.protobuf import text_format

from finetune import packaged
from finetune.graph import constant, to_meta
from finetune.protos import GraphDef, SavedModel, VariableDef
from finetune.reading import metagraph
from tests.graphs import FLOAT, fed, golden, graph, node, refusal, variable


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def members(stem: str) -> list[str]:
    return [f"{stem}.meta", f"{stem}.index", f"{stem}.data-00000-of-00001"]


def state(folder: Path, latest: str) -> None:
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{latest}"\nall_model_checkpoint_paths: "{latest}"\n')


def found(path: object) -> tuple[str, str]:
    """The names of the `.meta` and of the checkpoint."""
    pair = metagraph.find_pair(str(path))
    return pair.meta.name, os.path.basename(pair.prefix)


# ---- every way to say which pair


@pytest.mark.parametrize(
    "name", ["", "m-3", "m-3.meta", "m-3.index", "m-3.data-00000-of-00001", "checkpoint"], ids=lambda n: n or "folder"
)
def test_a_folder_a_prefix_or_any_file_means_the_pair(tmp_path, name):
    touch(tmp_path, *members("m-3"))
    state(tmp_path, "m-3")
    assert found(tmp_path / name) == ("m-3.meta", "m-3")


@pytest.mark.parametrize("folder", ["a b", "lr=[0.1,x]", "{a}", "größe", "what?*", "a.meta"])
@pytest.mark.parametrize("stem", ["m", "model.ckpt-3000", "m[1]", "mein modell", "模型", "m.data"])
def test_folders_and_pairs_may_be_called_anything(tmp_path, folder, stem):
    touch(tmp_path / folder, *members(stem), *members("other"))
    assert found(tmp_path / folder / stem) == (f"{stem}.meta", stem)
    assert found(tmp_path / folder / f"{stem}.index") == (f"{stem}.meta", stem)


def test_a_path_may_begin_at_home_or_at_somebody_who_is_not_here(tmp_path, monkeypatch):
    touch(tmp_path / "m", *members("m"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert found("~/m") == ("m.meta", "m")
    touch(tmp_path / "~nobody-of-that-name", *members("m"))
    assert found("~nobody-of-that-name/m") == ("m.meta", "m")


@pytest.mark.parametrize("path", ["", "/", "/.meta", "/.index"])
def test_a_prefix_may_end_in_a_slash(tmp_path, path):
    touch(tmp_path / "MSD_musicnn", ".meta", ".index", ".data-00000-of-00001")
    (tmp_path / "MSD_musicnn" / "checkpoint").write_text('model_checkpoint_path: "/home/author/MSD_musicnn/"\n')
    pair = metagraph.find_pair(f"{tmp_path}/MSD_musicnn{path}")
    assert (pair.meta.name, pair.prefix) == (".meta", f"{tmp_path}/MSD_musicnn/")
    assert [f.name for f in pair.files] == [".meta", ".data-00000-of-00001", ".index"]


def test_a_v1_checkpoint_is_one_file_beside_the_meta(tmp_path):
    touch(tmp_path, "model.ckpt.meta", "model.ckpt")
    for name in ("", "model.ckpt", "model.ckpt.meta"):
        assert found(tmp_path / name) == ("model.ckpt.meta", "model.ckpt")
    assert [f.name for f in metagraph.find_pair(str(tmp_path)).files] == ["model.ckpt.meta", "model.ckpt"]


def test_a_v1_checkpoint_may_be_several_files(tmp_path):
    shards = ["model.ckpt-00000-of-00002", "model.ckpt-00001-of-00002"]
    touch(tmp_path, "model.ckpt.meta", *shards)
    for name in ("", "model.ckpt", "model.ckpt.meta", *shards):
        assert found(tmp_path / name) == ("model.ckpt.meta", "model.ckpt")
    assert [f.name for f in metagraph.find_pair(str(tmp_path)).files] == ["model.ckpt.meta", *shards]


def test_files_are_those_of_this_pair_alone(tmp_path):
    touch(tmp_path, *members("m-1"), *members("m-10"), "m-1.txt")
    assert [f.name for f in metagraph.find_pair(str(tmp_path / "m-1")).files] == [
        "m-1.meta",
        "m-1.data-00000-of-00001",
        "m-1.index",
    ]


def test_a_prefix_that_is_also_a_folder_is_the_folder(tmp_path):
    touch(tmp_path, *members("m"))
    touch(tmp_path / "m", *members("inner"))
    assert found(tmp_path / "m") == ("inner.meta", "inner")
    assert found(tmp_path / "m.index") == ("m.meta", "m")


def test_the_demo_is_a_pair():
    pair = metagraph.find_pair(packaged.asset("demo/small_vgg"))
    assert pair.meta.name == f"{Path(pair.prefix).name}.meta"
    assert metagraph.read(pair.meta).graph_def.node


# ---- SavedModels, frozen graphs, and a graph alone


def saved_model(folder: Path, *tags: list[str]) -> Path:
    saved = SavedModel(saved_model_schema_version=1)
    for place, each in enumerate(tags):
        meta = saved.meta_graphs.add()
        meta.CopyFrom(to_meta(graph(fed(f"x{place}", None, 3), variable("w", 3))))
        meta.meta_info_def.tags.extend(each)
    touch(folder / "variables", *members("variables")[1:])
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    return folder


@pytest.mark.parametrize("name", ["", "saved_model.pb", "variables/variables", "variables/variables.index"])
def test_a_saved_model_is_a_pair(tmp_path, name):
    pair = metagraph.find_pair(str(saved_model(tmp_path, ["serve"]) / name))
    assert (pair.meta, pair.prefix) == (tmp_path / "saved_model.pb", str(tmp_path / "variables" / "variables"))
    assert [f.name for f in pair.files] == [
        "saved_model.pb",
        "variables.data-00000-of-00001",
        "variables.index",
    ]
    assert not pair.is_one_file


@pytest.mark.parametrize(
    ("tags", "chosen"),
    [([["train"]], 0), ([["train"], ["serve"]], 1), ([["serve", "tpu"], ["serve"]], 1), ([["a"], ["serve", "gpu"]], 1)],
)
def test_of_several_graphs_the_one_to_be_served_is_read(tmp_path, tags, chosen):
    meta = metagraph.read(saved_model(tmp_path, *tags) / "saved_model.pb")
    assert meta.graph_def.node[0].name == f"x{chosen}"


def test_tags_that_leave_a_choice_are_named(tmp_path):
    saved_model(tmp_path, ["serve", "gpu"], ["serve", "tpu"], [])
    error = refusal(metagraph.read, tmp_path / "saved_model.pb")
    assert error.what == "this SavedModel holds 3 graphs, with the tags gpu+serve, serve+tpu, no tag"
    assert error.todo == "save one with the tag 'serve' alone"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("saved_model.pb", b"", "this file is empty"),
        ("saved_model.pb", b"hello", "this is not a SavedModel"),
        ("saved_model.pb", SavedModel(saved_model_schema_version=1).SerializeToString(), "holds no graph"),
        ("m.pb", b"hello", "this is not a GraphDef"),
        ("m.pb", SavedModel(saved_model_schema_version=1).SerializeToString(), "this holds no graph"),
    ],
)
def test_what_is_no_saved_model_and_no_graph(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    assert what in refusal(metagraph.read, tmp_path / name).what


def test_a_saved_model_may_be_a_text(tmp_path):
    saved_model(tmp_path, ["serve"])
    saved = SavedModel.FromString((tmp_path / "saved_model.pb").read_bytes())
    (tmp_path / "saved_model.pb").unlink()
    (tmp_path / "saved_model.pbtxt").write_text(text_format.MessageToString(saved))
    assert metagraph.read(metagraph.find_pair(str(tmp_path)).meta) == saved.meta_graphs[0]


@pytest.mark.parametrize("name", ["", "frozen.pb"])
def test_a_frozen_graph_is_its_own_checkpoint(tmp_path, name):
    touch(tmp_path, "frozen.pb", "labels.txt")
    pair = metagraph.find_pair(str(tmp_path / name))
    assert (pair.meta, pair.prefix) == (tmp_path / "frozen.pb", str(tmp_path / "frozen.pb"))
    assert pair.files == [tmp_path / "frozen.pb"]
    assert pair.is_one_file


def test_several_graphs_in_a_folder_are_listed(tmp_path):
    touch(tmp_path, "a.pb", "b.pb")
    assert refusal(metagraph.find_pair, str(tmp_path)).todo == "name one: a.pb, b.pb"
    touch(tmp_path, *members("m"))
    assert found(tmp_path) == ("m.meta", "m")


def test_a_folder_above_a_saved_model_says_where_it_is(tmp_path):
    saved_model(tmp_path / "export" / "1", ["serve"])
    assert refusal(metagraph.find_pair, str(tmp_path / "export")).todo == f"did you mean {tmp_path / 'export' / '1'}?"


def test_a_graph_without_a_checkpoint_is_alone(tmp_path):
    touch(tmp_path, "m.meta")
    for path in (tmp_path, tmp_path / "m", tmp_path / "m.meta"):
        pair = metagraph.find_pair(str(path))
        assert (pair.prefix, pair.is_one_file, pair.files) == (str(pair.meta), True, [tmp_path / "m.meta"])


def test_a_graph_is_read_from_binary_and_from_text_alike(tmp_path):
    definition = to_meta(graph(fed("x", None, 3), constant("w", [[1.0], [2.0]], FLOAT), node("y", "MatMul", "x", "w")))
    (tmp_path / "m.pb").write_bytes(definition.graph_def.SerializeToString())
    (tmp_path / "m.pbtxt").write_text(text_format.MessageToString(definition.graph_def))
    assert metagraph.read(tmp_path / "m.pb") == metagraph.read(tmp_path / "m.pbtxt")
    assert [n.op for n in metagraph.read(tmp_path / "m.pb").graph_def.node] == ["Placeholder", "VariableV2", "MatMul"]
    assert [n.op for n in metagraph.parse(tmp_path / "m.pb").graph_def.node] == ["Placeholder", "Const", "MatMul"]


# ---- several checkpoints in a folder


def test_the_state_file_says_which_of_several_is_the_newest(tmp_path):
    touch(tmp_path, *members("m-1"), *members("m-20"), *members("m-3"))
    state(tmp_path, "m-20")
    assert found(tmp_path) == ("m-20.meta", "m-20")
    state(tmp_path, "/home/author/runs/m-3")
    assert found(tmp_path) == ("m-3.meta", "m-3")
    assert found(tmp_path / "m-1") == ("m-1.meta", "m-1")


@pytest.mark.parametrize(
    "text",
    [
        'model_checkpoint_path: "/home/author/m-999"\n',
        'model_checkpoint_path: "../m-999"\n',
        'model_checkpoint_path: ".."\n',
        'model_checkpoint_path: "\\x"\n',
        'model_checkpoint_path: "\\377"\n',
        "model_checkpoint_path: 3\n",
        "\0\1\2",
        "",
    ],
)
def test_a_moved_folder_with_a_stale_checkpoint_file_resolves(tmp_path, text):
    touch(tmp_path / "here", *members("m-5"))
    touch(tmp_path, *members("m-999"))
    (tmp_path / "here" / "checkpoint").write_text(text)
    assert metagraph.find_pair(str(tmp_path / "here")).meta == tmp_path / "here" / "m-5.meta"


def test_a_checkpoint_file_that_is_no_text_is_passed_over(tmp_path):
    touch(tmp_path, *members("m"))
    (tmp_path / "checkpoint").write_bytes(b"\xff\xfe")
    assert found(tmp_path) == ("m.meta", "m")


def test_a_state_file_never_leads_out_of_its_folder(tmp_path):
    touch(tmp_path / "elsewhere", *members("m"))
    touch(tmp_path / "here", *members("m"))
    for latest in (str(tmp_path / "elsewhere" / "m"), "../elsewhere/m"):
        state(tmp_path / "here", latest)
        assert metagraph.find_pair(str(tmp_path / "here")).meta.parent.name == "here"


def test_a_graph_written_once_belongs_to_every_step_of_its_run(tmp_path):
    touch(tmp_path, "m-0.meta", *members("m-100")[1:], *members("m-200")[1:])
    state(tmp_path, "m-200")
    assert found(tmp_path) == ("m-0.meta", "m-200")
    assert found(tmp_path / "m-100") == ("m-0.meta", "m-100")


def test_a_lone_graph_belongs_to_a_checkpoint_of_another_name(tmp_path):
    touch(tmp_path, "graph.meta", *members("weights")[1:])
    assert found(tmp_path / "weights") == ("graph.meta", "weights")


def test_of_several_the_only_whole_one_is_taken(tmp_path):
    touch(tmp_path, *members("m-1"), "m-2.meta", "n.index")
    assert found(tmp_path) == ("m-1.meta", "m-1")


def test_several_pairs_without_a_word_which_are_listed(tmp_path):
    touch(tmp_path, *members("b"), *members("a"))
    error = refusal(metagraph.find_pair, str(tmp_path))
    assert (error.where, error.status) == ("source.path", 3)
    assert (error.what, error.todo) == (f"'{tmp_path}' holds 2 pairs", "name one: a, b")


def test_a_graph_without_weights_is_not_among_the_several(tmp_path):
    touch(tmp_path, "m.meta", *members("m-100")[1:], *members("m-200")[1:])
    assert refusal(metagraph.find_pair, str(tmp_path)).todo == "name one: m-100, m-200"


# ---- what is missing


def test_no_such_folder(tmp_path):
    error = refusal(metagraph.find_pair, str(tmp_path / "none" / "m"))
    assert error.what == f"there is no folder '{tmp_path / 'none'}'"


def test_no_such_pair_says_which_there_are(tmp_path):
    touch(tmp_path, *members("model.ckpt-3000"))
    assert refusal(metagraph.find_pair, f"{tmp_path}/model.ckpt-300").todo == "did you mean model.ckpt-3000?"
    assert refusal(metagraph.find_pair, f"{tmp_path}/zzz").todo == "the folder has model.ckpt-3000"
    assert "there is no" in refusal(metagraph.find_pair, f"{tmp_path}/zzz.meta").what
    (tmp_path / "empty").mkdir()
    assert refusal(metagraph.find_pair, f"{tmp_path}/empty/m").todo == "no pair is there"


def test_a_folder_without_a_graph_says_where_one_is(tmp_path):
    touch(tmp_path / "runs", "readme.txt")
    assert refusal(metagraph.find_pair, str(tmp_path / "runs")).todo == "a pair is NAME.meta beside NAME.index"
    touch(tmp_path / "runs" / "first", *members("m"))
    error = refusal(metagraph.find_pair, str(tmp_path / "runs"))
    assert error.what == f"there is no .meta in folder '{tmp_path / 'runs'}'"
    assert error.todo == f"did you mean {tmp_path / 'runs' / 'first'}?"


@pytest.mark.parametrize(
    ("there", "what"),
    [
        (["m.index", "m.data-00000-of-00001"], "no m.meta beside"),
        (["m.meta", "m.index"], "m.data-00000-of-00001 is missing"),
        (["m.meta", "m.data-00000-of-00001"], "m.index is missing though its .data is there"),
    ],
)
def test_a_missing_member_is_named(tmp_path, there, what):
    touch(tmp_path, *there)
    for path in (tmp_path, tmp_path / "m"):
        error = refusal(metagraph.find_pair, str(path))
        assert what in error.what
        assert error.todo
        assert error.status == 3


def test_two_graphs_of_other_names_are_not_guessed_between(tmp_path):
    touch(tmp_path, "a.meta", "b.meta", *members("weights")[1:])
    assert "no weights.meta beside" in refusal(metagraph.find_pair, str(tmp_path / "weights")).what


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # permissions do not hold for root, as whom tests may run
    assert "cannot be read: Permission denied" in refusal(metagraph.find_pair, str(tmp_path)).what


@pytest.mark.parametrize("path", ["m" * 300, "m\0", "m" * 300 + "/m"])
def test_what_is_no_path(path):
    assert refusal(metagraph.find_pair, path).where == "source.path"


# ---- reading


def test_a_graph_is_read_from_binary_and_from_text(tmp_path):
    meta = to_meta(graph(fed("x", None, 3), variable("w", 3)))
    (tmp_path / "binary.meta").write_bytes(meta.SerializeToString())
    (tmp_path / "text.meta").write_text(text_format.MessageToString(meta))
    assert metagraph.read(tmp_path / "binary.meta") == metagraph.read(tmp_path / "text.meta") == meta


@pytest.mark.parametrize("content", [b"hello", b"\xff" * 40, b"node {", b"\x0a\xff"])
def test_something_else_is_no_metagraph(tmp_path, content):
    (tmp_path / "m.meta").write_bytes(content)
    error = refusal(metagraph.read, tmp_path / "m.meta")
    assert error.where == str(tmp_path / "m.meta")
    assert error.what == "this is not a MetaGraphDef"


def test_a_cut_off_file_is_refused(tmp_path):
    content = (golden("shared").folder / "model.meta").read_bytes()
    for length in (10, 1000, len(content) - 1):
        (tmp_path / "m.meta").write_bytes(content[:length])
        assert "MetaGraphDef" in refusal(metagraph.read, tmp_path / "m.meta").what


def test_a_file_without_a_graph_is_refused(tmp_path):
    (tmp_path / "m.meta").write_text("meta_info_def { meta_graph_version: 'x' }")
    assert refusal(metagraph.read, tmp_path / "m.meta").what.startswith("this holds no graph")


def test_a_frozen_graph_under_another_name_is_refused(tmp_path):
    frozen = GraphDef(node=[fed("x", None, 3), fed("y", None, 3)])
    (tmp_path / "m.meta").write_bytes(frozen.SerializeToString())
    refusal(metagraph.read, tmp_path / "m.meta")


def test_files_are_digested_by_name(tmp_path):
    touch(tmp_path, "a", "b")
    (tmp_path / "b").write_bytes(b"abc")
    digests = metagraph.digest([tmp_path / "a", tmp_path / "b"])
    assert list(digests) == ["a", "b"]
    assert digests["b"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ---- collections


def test_collections_that_are_missing_are_empty():
    meta = to_meta(graph(fed("x")))
    assert metagraph.node_list(meta, "update_ops") == []
    assert metagraph.variable_defs(meta, "variables") == []
    assert list(meta.collection_def) == []  # looking adds nothing


def test_a_definition_that_cannot_be_parsed_is_left_out():
    meta = to_meta(graph(fed("x")))
    good = VariableDef(variable_name="w:0")
    meta.collection_def["variables"].bytes_list.value.extend([b"\xff\xff", good.SerializeToString()])
    assert metagraph.variable_defs(meta, "variables") == [good]


def test_the_writer_is_the_version_that_the_file_names():
    meta = to_meta(graph(fed("x")))
    assert metagraph.producer(meta) == "GraphDef version 27"
    meta.meta_info_def.tensorflow_version = "1.12.0"
    assert metagraph.producer(meta) == "1.12.0"
