"""The pages in the documentation that have what benchmarks measured, each table between two marks."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"


def put(name: str, shown: str, page: Path = PAGE) -> None:
    """Puts a table between the marks of its name, in the place of the one before."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(before + begin + shown + end + rest.partition(end)[2], encoding="utf-8")
