"""A worker that is not the chief: it makes every step, and leaves nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

from finetune.distributing.cluster import Cluster
from finetune.errors import printable
from finetune.results.run_folder import RunFolder


@contextmanager
def beside_the_chief(cluster: Cluster) -> Iterator[RunFolder]:
    """A folder in the place of the run's, gone afterwards; what the run says is the chief's to say."""
    print(printable(f"{cluster.said}: the chief, {cluster.workers[0]}, writes"), flush=True)
    with ExitStack() as ends:
        folder = ends.enter_context(tempfile.TemporaryDirectory(prefix="finetune-worker-"))
        ends.enter_context(redirect_stdout(ends.enter_context(open(os.devnull, "w"))))
        yield RunFolder(Path(folder), {}, False)
