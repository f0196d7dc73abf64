"""The page in the documentation that has what benchmarks measured, each table between two marks."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def put(name: str, shown: str) -> None:
    """Puts a table between the marks of its name, in the place of the one before."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(before + begin + shown + end + rest.partition(end)[2], encoding="utf-8")
