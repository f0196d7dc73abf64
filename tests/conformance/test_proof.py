"""Promise: a run says before its first step that it has the checkpoint's bits and the unsliced graph's features."""

from __future__ import annotations

import numpy as np
from goldens import GOLDENS, Golden, every_golden, live, same_bits, source_of

from finetune.engine import proof
from finetune.learning.state import State, make_state
from finetune.recipe import Train
from finetune.surgery.backbone import mode_feeds
from finetune.surgery.source import Source, read_values
from finetune.surgery.variants import Variants, make_variants


def parts(golden: Golden) -> tuple[Source, Variants, State]:
    """What a run on a golden has before its first step, everything learning."""
    source = source_of(golden)
    variants = make_variants(source, False, [])
    return source, variants, make_state(read_values(source), variants.rates(), [], source.pieces(), Train())


@every_golden
def test_every_golden_is_proven(golden: Golden):
    source, variants, state = parts(golden)
    found = proof.prove(source, variants, state.variables(), golden.batch)
    count, examples = len(golden.keys), len(next(iter(golden.batch.values())))
    assert (found.tensors, found.identical, found.examples) == (count, count, examples)
    assert (found.features, found.largest_difference, found.why) == ("identical", 0.0, "")
    assert found.lines("fc7:0")[0] == f"proof: {count} of {count} tensors identical to the checkpoint"


@every_golden
def test_what_the_proof_calls_the_unsliced_graph_gives_what_a_session_on_the_file_gives(golden: Golden):
    source, variants, state = parts(golden)
    given = {**{t: golden.batch[f] for f, t in source.inputs.items()}, **mode_feeds(variants.feeds, "eval")}
    graph, fed, dropped = proof.unsliced(source, given)
    assert len(graph.nodes) == len(source.whole.nodes) - dropped
    assert dropped < len(source.whole.nodes) // 2
    with proof._session(graph, source, state.variables(), {fed[t]: v for t, v in given.items()}) as run:
        (ours,) = run()
        same_bits({"again": run()[0]}, {"again": ours})  # though some goldens assign variables while they compute
    with live(golden) as session:
        theirs = session.ask({"features": golden.cut}, golden.fed("eval"))["features"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_pieces_cut_at_another_row_are_seen():
    source, _, _ = parts(GOLDENS["embedding"])
    values = read_values(source)
    whole = np.concatenate([values["embedding/part_0"], values["embedding/part_1"]])
    shifted = {**values, "embedding/part_0": whole[10:], "embedding/part_1": whole[:10]}
    assert proof.differing(source, shifted) == ["embedding/part_0", "embedding/part_1"]
