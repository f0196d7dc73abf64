"""A bucket, and a courier that knows no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.remote import courier
from tests.remote.cloud import Cloud, cloud


@pytest.fixture(scope="session")
def one_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The courier takes seconds to start, so the bucket is one for all."""
    with cloud(tmp_path_factory.mktemp("cloud")) as found, pytest.MonkeyPatch.context() as patch:
        for name, text in found.environment.items():
            patch.setenv(name, text)
        courier._courier.cache_clear()
        yield found
        courier._courier().close()
        courier._courier.cache_clear()


@pytest.fixture
def bucket(one_cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """`gs://bucket`, empty; what is fetched from it lies in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one_cloud.clear()
    return one_cloud
