"""What users are told when something is wrong changes only where that is meant."""

from __future__ import annotations

import sys

import pytest

from tests.messages import FILE, messages


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions of Python spell an f-string otherwise")
def test_the_messages_are_those_that_were_read():
    assert messages() == FILE.read_text(encoding="utf-8"), "meant? then: python -m tests.messages"


def test_each_says_what_is_so_and_is_no_sentence_that_shouts():
    for line in messages().splitlines():
        assert ": error[" in line
        assert not line.rstrip("}").endswith(("!", ".")), line
