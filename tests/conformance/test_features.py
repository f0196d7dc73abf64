"""Promise: the features at the cut are those of the source."""

from __future__ import annotations

import numpy as np
import pytest
from goldens import GOLDENS, Golden, close, every_golden, features_of, live, same_bits, source_of

from finetune.errors import UserError


@every_golden
def test_features_are_those_of_a_session_bit_for_bit(golden: Golden):
    first = {field: array[:1] for field, array in golden.batch.items()}
    one = {tensor: first[field] for field, tensor in golden.inputs.items()}
    ours, truth, stored = {}, {}, {}
    for phase in golden.phases:
        features = features_of(source_of(golden), golden.feeds[phase])
        ours |= {phase: features(golden.batch), f"{phase}, one example": features(first)}
        stored[phase] = golden.answer(phase, "features")
    with live(golden) as session:
        for phase in golden.phases:
            truth |= session.ask({phase: golden.cut}, golden.fed(phase))
            truth |= session.ask({f"{phase}, one example": golden.cut}, {**golden.fed(phase), **one})
    same_bits(ours, truth)
    close({phase: ours[phase] for phase in stored}, stored)


# (golden, cut, inputs): cuts and inputs where authors did not foresee any.
ODD_CUTS = [
    ("rnn_while", "rnn/while/Exit_1:0", {"x": "x:0"}),  # a loop's result, of which the source uses another
    ("rnn_while", "rnn/while/Exit_2:0", {"x": "x:0"}),  # the flow of a TensorArray
    ("rnn_while", "transpose_1:0", {"x": "x:0"}),  # outputs that the source does not use
    ("while_scalar", "loop/while/Exit_1:0", {"x": "x:0"}),
    ("cond_data", "choice/Merge:0", {"x": "x:0"}),  # the result of a branch
    ("cond_data", "choice/Merge:1", {"x": "x:0"}),  # which branch it was
    ("bn_cond", "block1/bn/cond/FusedBatchNormV3_1:0", {"images": "images:0"}),  # inside the branch that is taken
    ("bn_cond", "block2/Relu6:0", {"block1": "block1/Relu6:0"}),
    ("bn_cond", "block2/Relu6:0", {"normalised": "block1/bn/cond/Merge:0"}),
    ("bn_side_effect", "fc2/Tanh:0", {"fc1": "fc1/Tanh:0"}),
    ("conv_ref", "fc7:0", {"images": "pool1:0"}),
    ("embedding", "sentence/Relu:0", {"words": "Mean:0"}),
    ("shared", "distance:0", {"left": "tower/Tanh:0", "right": "right:0"}),  # one side past the shared variables
    ("rnn_while", "last_state:0", {"x": "x:0", "transposed": "transpose:0"}),
    ("rnn_while", "last_state:0", {"x": "x:0", "examples": "unstack:0"}),  # one output of a node with two
    ("rnn_while", "last_state:0", {"x": "x:0", "steps": "unstack:1"}),
]


@pytest.mark.parametrize(("name", "at", "inputs"), ODD_CUTS)
def test_features_of_odd_cuts_are_those_of_a_session(name: str, at: str, inputs: dict[str, str]):
    golden = GOLDENS[name]
    with live(golden) as session:
        given = session.ask(inputs, golden.fed("eval"))
        # Other values than the graph itself would compute, where that is possible.
        batch = {f: a[::-1].copy() if a.ndim > 1 else a for f, a in given.items()}
        feeds = {tensor: batch[field] for field, tensor in inputs.items()}
        truth = session.ask({"features": at}, {**golden.feeds["eval"], **feeds})
    features = features_of(source_of(golden, at, inputs=inputs), golden.feeds["eval"])
    same_bits({"features": features(batch)}, truth)


@pytest.mark.parametrize(
    ("name", "at", "inputs", "says"),
    [
        ("rnn_while", "rnn/while/Tanh:0", {"x": "x:0"}, "error[source] cut: 'rnn/while/Tanh:0' stands inside"),
        ("while_scalar", "loop/while/cond/Merge:0", {"x": "x:0"}, "stands inside 'loop/while/while_context'"),
        (
            "rnn_while",
            "last_state:0",
            {"x": "x:0", "h": "rnn/while/Tanh:0"},
            "source.inputs: 'rnn/while/Tanh:0' stands",
        ),
        ("cond_data", "choice/add_1:0", {"x": "x:0"}, "stands inside 'choice/cond_text_1'"),
        ("cond_data", "choice/add:0", {"x": "x:0"}, "stands inside 'choice/cond_text'"),
        ("bn_side_effect", "fc1/bn/cond/Identity:0", {"x": "x:0"}, "in a branch that the feeds switch off"),
    ],
)
def test_a_cut_without_a_value_of_its_own_is_refused(name: str, at: str, inputs: dict[str, str], says: str):
    golden = GOLDENS[name]
    with pytest.raises(UserError) as caught:
        features_of(source_of(golden, at, inputs=inputs), golden.feeds["eval"])
    assert says in str(caught.value)


def test_sequences_of_another_length():
    golden = GOLDENS["rnn_sequence"]
    batch = {"x": golden.batch["x"][:, :3], "lengths": np.minimum(golden.batch["lengths"], 3)}
    with live(golden) as session:
        truth = session.ask({"features": golden.cut}, {golden.inputs[field]: batch[field] for field in batch})
    same_bits({"features": features_of(source_of(golden), {})(batch)}, truth)
