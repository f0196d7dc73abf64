"""What a user reads when something is wrong."""

from __future__ import annotations

import pytest

from finetune.errors import MAX_LINES, STATUS, UserError, printable, shortlist


def test_an_error_says_where_what_and_what_to_do():
    error = UserError("data", "data.path", "there is no folder 'x'", "give a folder")
    assert str(error) == "error[data] data.path: there is no folder 'x'; give a folder"
    assert (error.code, error.where, error.what, error.todo) == (
        "data",
        "data.path",
        "there is no folder 'x'",
        "give a folder",
    )


def test_without_advice_there_is_no_loose_semicolon():
    assert str(UserError("recipe", "cut", "is empty")) == "error[recipe] cut: is empty"


def test_an_error_has_at_most_five_lines():
    error = UserError("data", "a", "b", "c", *[f"and {i}" for i in range(9)])
    assert str(error).splitlines() == ["error[data] a: b; c", "and 0", "and 1", "and 2", "and 3"]
    assert MAX_LINES == 5


@pytest.mark.parametrize(
    ("code", "status"), [("recipe", 2), ("data", 2), ("source", 3), ("numerics", 4), ("storage", 5), ("machine", 75)]
)
def test_117_schedulers_can_tell_what_went_wrong(code, status):
    assert UserError(code, "where", "what").status == status
    assert len(STATUS) == 6


def test_a_code_that_no_scheduler_knows_is_our_bug():
    with pytest.raises(KeyError):
        UserError("other", "where", "what")


def test_what_a_file_says_stays_on_its_line_and_leaves_the_terminal_alone():
    text = str(UserError("source", "a\nb", "\x1b[2J\r", "\u202egpj.exe"))
    assert text.splitlines() == ["error[source] a\\nb: \\x1b[2J\\r; \\u202egpj.exe"]
    assert printable("größe ✓ 大") == "größe ✓ 大"


def test_a_name_of_a_million_characters_leaves_the_beginning_and_the_advice():
    said = str(UserError("source", "cut", "x" * 10**6, "look at it"))
    assert len(said) < 1100
    assert said.startswith("error[source] cut: xxx")
    assert said.endswith("look at it")


def test_a_short_list_is_whole_and_a_long_one_says_how_long():
    assert shortlist([]) == ""
    assert shortlist(["a", "b", "c"]) == "a, b, c"
    assert shortlist(["a", "b", "c", "d"], 2) == "a, b … (4 in all)"
