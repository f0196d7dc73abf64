"""What all tests share."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile_run import run_folder, whole_run  # noqa: F401 - fixtures

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow switches oneDNN on by itself on some processors only. There it fuses more where a branch was folded, so
# that last bits differ (docs/decisions/0004); the tests are the same everywhere.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests keep of frozen parts is not the user's, and of no earlier tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of training: the recipes that `finetune.run.run` was called with."""
    recipes: list[Any] = []
    set_run(monkeypatch, lambda recipe, yaml, overrides: recipes.append(recipe))
    return recipes


def set_run(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    stub = types.ModuleType("finetune.run")
    vars(stub)["run"] = lambda *words, interruption, **how: run(*words)
    monkeypatch.setitem(sys.modules, "finetune.run", stub)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Puts a function in place of `finetune.run.run`."""
    return lambda run: set_run(monkeypatch, run)
