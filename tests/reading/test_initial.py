"""A variable that no checkpoint holds starts from the constant of its initialiser, or from fresh numbers."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.graph import constant
from finetune.reading.initial import constants, fresh, is_drawn
from finetune.reading.variables import find_variables
from tests.graphs import FLOAT, INT, graph, meta_of, node, strings, variable


def stated(*nodes, of=None):
    """The constant that the initialiser of `w` [2, 3] assigns."""
    source = graph(of or variable("w", 2, 3), *nodes)
    meta = meta_of(source)
    found = constants(meta, source, find_variables(meta, source))
    return found["w"].tolist() if "w" in found else None


def assign(*, to: str = "value", op: str = "Assign"):
    return node("w/Assign", op, "w", to)


ROWS = [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]
FILLED = [[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]]
FILL = [constant("sizes", [2, 3], INT), constant("seven", 7.0, FLOAT), node("value", "Fill", "sizes", "seven")]


def test_a_constant_is_taken():
    assert stated(constant("value", ROWS, FLOAT), assign()) == ROWS
    assert stated(constant("c", ROWS, FLOAT), node("value", "Identity", "c"), assign()) == ROWS
    resource = variable("w", 2, 3, resource=True)
    assert stated(constant("value", ROWS, FLOAT), assign(op="AssignVariableOp"), of=resource) == ROWS


def test_what_is_filled_with_a_constant_is_computed():
    assert stated(*FILL, assign()) == FILLED


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [assign(to="gone")],
        [constant("value", ROWS, FLOAT), assign(op="AssignAdd")],
        [constant("value", [[1.0]], FLOAT), assign()],
        [constant("value", np.ones((2, 3)), INT), assign()],
        [node("value", "RandomUniform", "sizes"), assign()],
        [constant("sizes", [3, 2], INT), *FILL[1:], assign()],
        [strings("sizes", "2", "3"), *FILL[1:], assign()],
        [node("sizes", "RandomUniform"), *FILL[1:], assign()],
        [node("value", "Identity", "value"), assign()],
    ],
)
def test_anything_else_is_not_run(nodes):
    assert stated(*nodes) is None


def test_fresh_numbers_depend_on_seed_and_name():
    one = fresh("w", (50, 70), FLOAT, seed=0)
    assert np.array_equal(one, fresh("w", (50, 70), FLOAT, seed=0))
    assert not np.array_equal(one, fresh("w", (50, 70), FLOAT, seed=1))
    assert not np.array_equal(one, fresh("v", (50, 70), FLOAT, seed=0))


def test_matrices_and_kernels_are_glorot_uniform():
    assert 0.21 < np.abs(fresh("w", (50, 70), FLOAT, 0)).max() <= (6 / 120) ** 0.5 < 0.2237
    assert 0.09 < np.abs(fresh("w", (3, 3, 30, 40), FLOAT, 0)).max() <= (6 / 630) ** 0.5


@pytest.mark.parametrize(("shape", "dtype"), [((5,), FLOAT), ((), FLOAT), ((2, 3), INT)])
def test_all_else_is_zero(shape, dtype):
    assert not is_drawn(shape, dtype)
    values = fresh("w", shape, dtype, 0)
    assert (values.shape, values.any()) == (shape, False)
