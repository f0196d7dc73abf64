"""What a run warns of: only what is so, and by name."""

from __future__ import annotations

import pytest

from finetune.surgery import doubts
from finetune.surgery.source import Source, read_source
from finetune.surgery.variants import make_variants
from tests.graphs import FLOAT, every_golden, fed, golden, graph, make_node, meta_of, variable


def normalised(folder, **attrs) -> Source:
    """Batch norm as a writer bakes it in, with no update that the file would list."""
    from finetune.results import checkpoints

    names = ["scale", "offset", "mean", "variance"]
    kind = {"T": {"type": FLOAT}, "U": {"type": FLOAT}}
    norm = make_node("bn/norm", "FusedBatchNormV3", ["x", *names], **kind, **attrs)
    source = graph(fed("x", None, 2, 2, 3), *(variable(n, 3) for n in names), norm)
    (folder / "model.meta").write_bytes(meta_of(source).SerializeToString())
    checkpoints.write(folder, "model", {n: [1.0, 1.0, 1.0] for n in names}, {})
    return read_source(str(folder), "bn/norm", {}, {})


@pytest.mark.parametrize(
    ("attrs", "layers"), [({}, ["bn"]), ({"is_training": {"b": True}}, ["bn"]), ({"is_training": {"b": False}}, [])]
)
def test_batch_norm_baked_in_training_mode_is_seen(tmp_path, attrs, layers):
    source = normalised(tmp_path, **attrs)
    assert doubts.normalised_by_the_batch(source, make_variants(source, True, []).evaluation) == layers


@every_golden
def test_a_golden_in_evaluation_gives_no_warning(name):
    about = golden(name)
    source = read_source(str(about.folder), about.cut, about.inputs, about.feeds["eval"])
    assert doubts.normalised_by_the_batch(source, make_variants(source, True, []).evaluation) == []
