"""Runs as trials leave them, without the training."""

from __future__ import annotations

import json
from typing import Any

from finetune.compose import compose
from finetune.sweeping.trials import Trial


def leave(trial: Trial, accuracy: float = 0.5, status: str = "finished", step: int = 10, recipe_yaml: str = "") -> None:
    """A run folder with this result."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "recipe.yaml").write_text(recipe_yaml or compose(list(trial.words)).yaml)
    result = f"accuracy {accuracy}" if status == "finished" else f"{status} at step {step}"
    (trial.folder / "run.json").write_text(json.dumps({"status": status, "step": step, "result": result}))
    lines = [{"step": at, "phase": "eval", "loss": 1 - accuracy, "accuracy": accuracy} for at in (0, step)]
    (trial.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (trial.folder / "report.html").write_text("")
    metric = {"value": accuracy, "low": accuracy / 2, "high": (1 + accuracy) / 2}
    head: dict[str, Any] = {"main": "accuracy", "loss": "softmax", "metrics": {"accuracy": metric}, "baselines": {}}
    if status == "finished":
        (trial.folder / "evaluation.json").write_text(json.dumps({"heads": {"head": head}}))


def value(trial: Trial, key: str) -> str:
    """What a trial has of its own for a key."""
    return next(word.partition("=")[2] for word in trial.words if word.startswith(f"{key}="))
