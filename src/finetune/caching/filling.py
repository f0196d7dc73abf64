"""Fills a store: each example once through the part that is kept, by as many processes as there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from finetune.caching.store import Store
from finetune.errors import UserError

Rows = Mapping[str, np.ndarray]
_PAUSE = 0.2  # seconds, while other processes make the last chunks


def fill(
    store: Store,
    compute: Callable[[Iterator[int]], Iterator[tuple[int, Rows]]],
    progress: Callable[[int], None] = lambda rows: None,
) -> dict[str, float]:
    """Computes what is missing, and waits for what others compute; gives the largest error of rounding, by name.

    Args:
      compute: gives the rows of each chunk of which it is given the number, in that order.
      progress: is told how many rows are there now.

    Raises:
      UserError: the rows cannot be written, or do not fit the dtype that they are kept in.
    """
    layout, errors = store.layout, {name: 0.0 for name in store.layout.rows}
    while missing := store.missing():
        there = layout.count - sum(_rows_in(layout.span(chunk)) for chunk in missing)
        progress(there)
        before = time.monotonic()
        # Written beside the computing of the next chunk: a disk that is busy with other things takes seconds to sync.
        with ThreadPoolExecutor(max_workers=1) as writer:
            written: Future[None] | None = None
            for chunk, rows in compute(store.claimed()):
                for name, made in rows.items():
                    errors[name] = max(errors[name], _rounding(made, layout.dtypes[name], name))
                if written is not None:
                    written.result()
                written = writer.submit(store.write, chunk, rows)
                there += _rows_in(layout.span(chunk))
                progress(there)
            if written is not None:
                written.result()
        store.sync()
        if time.monotonic() - before < _PAUSE:
            time.sleep(_PAUSE)
    return errors


def _rows_in(span: slice) -> int:
    return span.stop - span.start


def _rounding(rows: np.ndarray, dtype: np.dtype, name: str) -> float:
    """The largest error that a narrower dtype makes, as a share of the largest value."""
    if rows.dtype == dtype:
        return 0.0
    with np.errstate(over="ignore"):
        kept = rows.astype(dtype).astype(rows.dtype)
    if (np.isfinite(rows) & ~np.isfinite(kept)).any():
        what = f"{dtype} has no room for {np.abs(rows).max():.4g}, which is in {name}"
        raise UserError("recipe", "cache.dtype", what, "set cache.dtype=float32")
    largest = np.abs(rows).max(initial=0.0)
    return float(np.nanmax(np.abs(rows - kept), initial=0.0) / largest) if largest else 0.0
