from __future__ import annotations

from finetune.results.fates import variable_table


def test_the_table_of_variables_is_aligned():
    assert variable_table([("a/w", (3, 4), "learns"), ("step", (), "frozen")]) == [
        "  a/w      3×4  learns",
        "  step  scalar  frozen",
    ]
