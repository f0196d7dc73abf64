"""A run that goes back to a checkpoint tells what it takes back."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from finetune.learning.course import Standing
from finetune.learning.monitor import Rules, Watch
from finetune.learning.train import NonFinite
from finetune.results.checkpoints import Loaded
from finetune.results.report import Report
from finetune.results.run_files import METRICS
from finetune.running import keeping, setbacks


def session(watch: Watch) -> Any:
    """As far as going back looks at it."""
    return SimpleNamespace(
        state=SimpleNamespace(watch=watch, conclude=lambda watch: None),
        recipe=SimpleNamespace(train=SimpleNamespace(on_nan="rollback")),
        plan=SimpleNamespace(phases=()),
        rules=Rules(),
        values_in=lambda back: {},
        take_up=lambda values, step: None,
    )


@pytest.mark.parametrize("owes", [False, True])
def test_an_evaluation_that_is_owed_is_told_of_once(tmp_path: Path, monkeypatch, capsys, owes: bool):
    held = {name: np.asarray(value) for name, value in replace(Standing(), owes=owes).tensors().items()}
    back = Loaded(4, held, ["model-6: a checksum is wrong"])
    monkeypatch.setattr(keeping, "newest", lambda folder, plan: back)
    with closing(Report(tmp_path)) as tell:
        tell.scalars("eval", 4, {"loss": 1.0})
        folder: Any = None
        assert setbacks.go_back(session(Watch(rollbacks=1)), folder, tell, NonFinite(7, "the loss is nan")) == 4
    phases = [json.loads(line)["phase"] for line in (tmp_path / METRICS).read_text().splitlines()]
    assert phases == (["rollback"] if owes else ["eval", "rollback"])
    said = capsys.readouterr().out
    assert "warning: a newer checkpoint is damaged and passed over: model-6: a checksum is wrong" in said
    assert "at step 7 the loss is nan; back to step 4" in said
