"""Promise: a lookup table answers as the source's own does, though nothing that the file names is ever run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from finetune.engine import heads
from finetune.engine.compile import as_function, features_program
from finetune.engine.graft import graft, pair_graph
from finetune.engine.proof import prove
from finetune.errors import UserError
from finetune.reading.metagraph import read
from finetune.recipe import Head
from finetune.results import export
from finetune.surgery.backbone import make_backbone
from finetune.surgery.source import Source, read_source, read_values
from finetune.surgery.variants import make_variants
from tests.graphs import softmax_of

tf1 = tf.compat.v1
WORDS = np.array(["dog", "cat", "a dog", ""], object)


def save_words(folder: Path, vocabulary_file: Path | None = None) -> Path:
    """words:0 -> ids by a table -> rows of an embedding, features:0."""
    folder.mkdir()
    with tf.Graph().as_default(), tf1.Session() as session:
        words = tf1.placeholder(tf.string, [None], "words")
        if vocabulary_file is None:
            contents = tf.lookup.KeyValueTensorInitializer(["cat", "dog"], tf.range(1, 3, dtype=tf.int64))
        else:
            contents = tf.lookup.TextFileInitializer(
                str(vocabulary_file),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
        table = tf.lookup.StaticHashTable(contents, default_value=0)
        embedding = tf1.get_variable("embedding", initializer=np.float32([[0, 0], [1, 2], [3, 4]]), use_resource=False)
        tf.identity(tf.gather(embedding, table.lookup(words)) * 2.0, "features")
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(session, str(folder / "words"))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return read_source(str(save_words(tmp_path / "source")), "features", {}, {})


EXPECTED = [[6, 8], [2, 4], [0, 0], [0, 0]]


def test_the_engine_looks_up_what_the_source_would(source: Source):
    backbone = make_backbone(source.whole, source.cut, source.inputs, {}, tables=source.tables)
    features = as_function(features_program(backbone))
    values = {f"variable/{name}": value for name, value in read_values(source).items()}
    assert features({**values, "input/words": WORDS})["features"].numpy().tolist() == EXPECTED


def test_gradients_reach_the_embedding_behind_a_table(source: Source):
    model = graft(make_variants(source, False, []), {"head": Head()}, [softmax_of(2, source.cut)])
    head = heads.initial_values(model.new_variables, 0)
    values = {f"variable/{name}": value for name, value in {**read_values(source), **head}.items()}
    found = model.step({**values, "input/words": WORDS, "target/head": np.int64([0, 1, 0, 1])})
    assert np.abs(found["gradient/embedding"]).sum() > 0


@pytest.mark.parametrize("legacy", [False, True])
def test_the_unsliced_graph_looks_up_the_same(tmp_path: Path, legacy: bool):
    folder = save_words(tmp_path / "source")
    if legacy:  # as files of before TensorFlow 1.2 have them
        meta = read(folder / "words.meta")
        for node in meta.graph_def.node:
            node.op = re.sub("^(HashTable|LookupTable(Find|Import)|InitializeTable)V2$", r"\1", node.op)
        (folder / "words.meta").write_bytes(meta.SerializeToString())
    source = read_source(str(folder), "features", {}, {})
    assert (source.whole.nodes[source.tables[0].name].op == "HashTable") == legacy
    found = prove(source, make_variants(source, False, []), read_values(source), {"words": WORDS})
    assert (found.features, found.why) == ("identical", "")


def test_plain_tensorflow_fills_the_table_of_the_written_pair(source: Source, tmp_path: Path):
    model = graft(make_variants(source, True, []), {"head": Head()}, [softmax_of(2, source.cut)])
    values = {**read_values(source), **heads.initial_values(model.new_variables, 0)}
    export.write_pair(tmp_path / "pair", pair_graph(source, model), values, source.pieces(), {})
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.train.import_meta_graph(str(tmp_path / "pair" / "model.meta")).restore(
            session, str(tmp_path / "pair" / "model")
        )
        session.run(tf1.tables_initializer())
        assert session.run("features:0", {"words:0": WORDS}).tolist() == EXPECTED
    again = read_source(str(tmp_path / "pair"), "features", {}, {})
    assert [(t.name, t.values.tolist()) for t in again.tables] == [(t.name, t.values.tolist()) for t in source.tables]


def test_a_table_that_is_filled_from_a_file_is_refused(tmp_path: Path):
    (tmp_path / "vocabulary.txt").write_text("cat\ndog\n")
    folder = save_words(tmp_path / "source", tmp_path / "vocabulary.txt")
    with pytest.raises(UserError, match="this lookup table is not filled from constants of the graph"):
        read_source(str(folder), "features", {}, {})
