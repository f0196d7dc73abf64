"""No golden is left out."""

from __future__ import annotations

from pathlib import Path

from goldens import FOLDER, GOLDENS

from finetune.reading.metagraph import find_pair

PROMISES = ("features", "gradients", "training", "export", "purity", "stateless")


def test_every_folder_is_a_golden():
    folders = [path for path in FOLDER.iterdir() if path.is_dir()]
    assert len(GOLDENS) == len(folders) > 0
    for golden in GOLDENS.values():
        assert find_pair(str(golden.folder)).prefix == str(golden.prefix)


def test_every_promise_is_held_against_every_golden():
    for promise in PROMISES:
        assert "\n@every_golden\ndef test_" in Path(__file__).with_name(f"test_{promise}.py").read_text(
            encoding="utf-8"
        )
