"""The file of what was measured before."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from finetune.calibrating.remembered import MOST, alone, key_of, recall, remember
from finetune.calibrating.setting import Choice, Setting

CHOICE = Choice(Setting(onednn=True), ("engine: oneDNN on, as measured", "engine: more"))


def test_what_is_remembered_comes_back_under_its_key_only(tmp_path: Path):
    path = tmp_path / "cache" / "engines.json"
    assert recall(path, "a") == (None, "")
    assert remember(path, "a", CHOICE) == ""
    assert recall(path, "a") == (CHOICE, "")
    assert recall(path, "b") == (None, "")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_one_measures_at_a_time(tmp_path: Path):
    path, told = tmp_path / "cache" / "engines.json", []
    entered, let = threading.Event(), threading.Event()

    def first() -> None:
        with alone(path, lambda: told.append("first waits")):
            entered.set()
            let.wait(10)
            remember(path, "a", CHOICE)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    with alone(path, lambda: (told.append("second waits"), let.set())[0]):
        assert recall(path, "a") == (CHOICE, "")
    thread.join(10)
    assert told == ["second waits"]


def test_where_there_can_be_no_lock_nobody_waits(tmp_path: Path):
    (tmp_path / "file").write_text("")
    entered = []
    with alone(tmp_path / "file" / "engines.json", lambda: None):
        entered.append(1)
    assert entered == [1]


def test_a_damaged_file_is_passed_over_with_a_word_and_replaced(tmp_path: Path):
    for text in ("{", "[]", "\udc80"):
        path = tmp_path / "engines.json"
        path.write_bytes(text.encode(errors="surrogateescape"))
        assert recall(path, "a") == (None, f"engine: {path} cannot be read and is passed over")
        assert remember(path, "a", CHOICE) == ""
        assert recall(path, "a") == (CHOICE, "")


def test_an_entry_that_makes_no_sense_is_none(tmp_path: Path):
    path = tmp_path / "engines.json"
    path.write_text(json.dumps({"a": {"setting": {"onednn": "perhaps"}}, "b": 3, "c": {"setting": {"xla": True}}}))
    assert recall(path, "a") == recall(path, "b") == (None, "")
    assert recall(path, "c") == (Choice(Setting(xla=True)), "")


def test_the_file_is_bounded_and_the_oldest_goes_first(tmp_path: Path):
    path = tmp_path / "engines.json"
    path.write_text(json.dumps({str(n): {"setting": Setting().record()} for n in range(MOST)}))
    remember(path, "0", CHOICE)  # used again, it is new
    remember(path, "new", CHOICE)
    assert len(json.loads(path.read_text())) == MOST
    assert recall(path, "1") == (None, "")
    assert recall(path, "0") == recall(path, "new") == (CHOICE, "")


def test_a_folder_that_cannot_be_written_costs_a_word(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert remember(tmp_path / "file" / "engines.json", "a", CHOICE).startswith("engine: not remembered: ")


def test_a_key_depends_on_all_that_is_measured_and_on_no_order():
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})
