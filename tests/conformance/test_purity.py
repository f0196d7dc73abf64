"""Promise: surgery changes nothing that it was given, and does the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goldens import Golden, every_golden, live, model_of, source_of

from finetune.engine.graft import pair_graph
from finetune.graph import Graph, to_meta
from finetune.reading import metagraph
from finetune.results import export
from finetune.surgery.backbone import Backbone, make_backbone
from finetune.surgery.source import Source, read_values


def content(message: Any) -> bytes:
    return message.SerializeToString(deterministic=True)


def contents(graph: Graph) -> list[bytes]:
    """Every message of a graph; a lookup in a map field of one adds to it, and shows here."""
    return [*map(content, graph.nodes.values()), *map(content, (*graph.conds, *graph.whiles, *graph.functions))]


def surroundings(golden: Golden, source: Source) -> dict[str, Any]:
    return {
        "files": {path.name: path.read_bytes() for path in golden.folder.iterdir()},
        "meta": content(source.meta),
        "whole": contents(source.whole),
        "below": contents(source.below),
        "names": list(source.whole.nodes),
    }


def backbone_of(golden: Golden, source: Source) -> Backbone:
    return make_backbone(source.whole, [source.cut], source.inputs, golden.feeds[golden.phases[-1]], source.updates)


@every_golden
def test_surgery_leaves_the_source_as_it_was(golden: Golden, tmp_path: Path):
    original = metagraph.read(Path(f"{golden.prefix}.meta"))
    source = source_of(golden)
    before = surroundings(golden, source)
    assert before["meta"] == content(original)

    backbone = backbone_of(golden, source)
    made = contents(backbone.graph)
    model = model_of(source)
    export.write_pair(
        tmp_path / "pair", pair_graph(source, model), {**read_values(source), **golden.head}, source.pieces(), {}
    )

    assert surroundings(golden, source) == before
    assert content(metagraph.read(Path(f"{golden.prefix}.meta"))) == before["meta"]
    assert contents(backbone.graph) == made


@every_golden
def test_surgery_done_twice_gives_the_same_bytes(golden: Golden):
    """Whatever was done to the same source in between."""
    source = source_of(golden)
    first = content(to_meta(backbone_of(golden, source).graph))
    make_backbone(source.whole, [source.cut], source.inputs, golden.feeds["eval"])
    with live(golden):  # nor does it matter which graph is the default one
        assert content(to_meta(backbone_of(golden, source).graph)) == first
    assert content(to_meta(backbone_of(golden, source_of(golden)).graph)) == first


@every_golden
def test_the_pair_of_one_source_is_the_same_whenever_it_is_made(golden: Golden):
    source = source_of(golden)
    model = model_of(source, stop_gradient=True)
    first, second = pair_graph(source, model), pair_graph(source, model)
    assert content(first.graph_def) == content(second.graph_def)
    assert first.collection_def.keys() == second.collection_def.keys()
    for name in ("variables", "trainable_variables", "update_ops"):
        assert (name in first.collection_def) == (name in second.collection_def)
        assert name not in first.collection_def or content(first.collection_def[name]) == content(
            second.collection_def[name]
        )
