"""What a record may hold."""

from __future__ import annotations

import pytest

from finetune.calibrating.setting import BY_ITSELF, Setting, from_record


def test_a_setting_comes_back_from_its_record():
    for setting in (Setting(), Setting(True, 3, True), Setting(False)):
        assert from_record(setting.record()) == setting


@pytest.mark.parametrize(
    "record", [None, [], {}, "x", {"onednn": 2}, {"threads": 0}, {"threads": "4"}, {"threads": True}, {"xla": None}]
)
def test_what_makes_no_sense_is_no_setting(record: object):
    assert from_record(record) is None


def test_what_tensorflow_does_by_itself_is_left_to_it():
    assert BY_ITSELF.setting.environment() == {}
