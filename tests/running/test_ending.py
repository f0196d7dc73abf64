from __future__ import annotations

import json
from pathlib import Path

from finetune.learning.monitor import Watch
from finetune.running.ending import best_elsewhere, best_of


def test_the_best_is_said_with_its_pair_if_that_was_kept(tmp_path: Path):
    watch = Watch(best=0.5, best_step=10, mark=0.5)
    assert best_of(Watch(), "loss", tmp_path / "best") is None
    unkept = best_of(watch, "loss", tmp_path / "best")
    assert unkept == {"step": 10, "metric": "loss", "value": 0.5, "pair": None}
    assert best_elsewhere(unkept, 20) == "; the best loss was 0.5 at step 10"
    assert best_elsewhere(unkept, 10) == best_elsewhere(None, 10) == ""
    (tmp_path / "best").mkdir()
    (tmp_path / "best/model.json").write_text(json.dumps({"evaluated": {"step": 14, "loss": 0.25}}))
    assert best_of(watch, "loss", tmp_path / "best") == unkept
    (tmp_path / "best/model.json").write_text(json.dumps({"evaluated": {"step": 10, "loss": 0.5}}))
    kept = best_of(watch, "loss", tmp_path / "best")
    assert best_elsewhere(kept, 20) == "; the best loss was 0.5 at step 10, whose model is in best/"
