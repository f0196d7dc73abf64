from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from finetune.judging.drift import drift

RANDOM = np.random.default_rng(2)
BEFORE, AFTER = (RANDOM.normal(size=(50, 6)).astype(np.float32) for _ in range(2))


def test_what_has_not_moved_has_no_drift():
    found = drift("fc8:0", BEFORE, BEFORE)
    assert (found.difference, found.divergence, found.agreement) == (0.0, 0.0, 1.0)


def test_logits_and_probabilities_drift_alike():
    expected = np.mean(entropy(softmax(BEFORE, axis=1), softmax(AFTER, axis=1), axis=1))
    logits = drift("fc8:0", BEFORE, AFTER)
    shares = drift("prob:0", softmax(BEFORE, axis=1), softmax(AFTER, axis=1))
    assert logits.divergence == pytest.approx(expected, rel=1e-5)
    assert shares.divergence == pytest.approx(expected, rel=1e-5)
    same = np.mean(BEFORE.argmax(axis=1) == AFTER.argmax(axis=1))
    assert logits.agreement == shares.agreement == same
    # Logarithms of probabilities are logits too.
    assert drift("log:0", log_softmax(BEFORE, axis=1), AFTER).divergence == pytest.approx(expected, rel=1e-5)


def test_a_single_output_has_no_classes():
    found = drift("score:0", BEFORE[:, :1], BEFORE[:, :1] + 0.5)
    assert found.difference == pytest.approx(0.5)
    assert (found.divergence, found.agreement) == (None, None)
    assert found.told() == "old head: score:0 difference 0.5, on 50 held-out examples before and after"
    assert drift("score:0", BEFORE[:, 0], BEFORE[:, 0]).difference == 0.0


def test_a_map_of_outputs_counts_place_by_place():
    found = drift("map:0", BEFORE.reshape(10, 5, 1, 6), AFTER.reshape(10, 5, 1, 6))
    assert found.divergence == pytest.approx(drift("fc8:0", BEFORE, AFTER).divergence)
    assert found.examples == 10
