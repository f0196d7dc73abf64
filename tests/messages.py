"""Every message of an error that a user can cause, as the code has it.

    python -m tests.messages

writes them to tests/messages.txt, where a change that was not meant shows as a difference.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests" / "messages.txt"


def messages() -> str:
    """A line for each place that makes a `UserError`, by room; what is filled in stands in braces."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path.stem}: {message}" for message in _of(tree)]
    return "\n".join([*dict.fromkeys(found), ""])


def _of(tree: ast.AST) -> Iterator[str]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError"
    ]
    for call in sorted(calls, key=lambda node: node.lineno):
        around = [f for f in functions if f.lineno <= call.lineno <= (f.end_lineno or 0)]
        inner = max(around, key=lambda function: function.lineno, default=None)
        code, where, what, *rest = (_text(part, call, inner) for part in call.args)
        yield f"error[{code}] {where}: {'; '.join(part for part in (what, *rest) if part)}"


def _text(part: ast.expr, call: ast.Call, inside: ast.FunctionDef | None) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    if isinstance(part, ast.JoinedStr):
        return "".join(_piece(piece) for piece in part.values)
    if isinstance(part, ast.Name) and inside is not None:
        before = [
            node.value
            for node in ast.walk(inside)
            if isinstance(node, ast.Assign)
            and [ast.unparse(target) for target in node.targets] == [part.id]
            and node.lineno < call.lineno
        ]
        if before:
            return _text(max(before, key=lambda node: node.lineno), call, None)
    return f"{{{ast.unparse(part)}}}"


def _piece(piece: ast.expr) -> str:
    if isinstance(piece, ast.FormattedValue):
        return f"{{{ast.unparse(piece.value)}}}"
    return str(piece.value) if isinstance(piece, ast.Constant) else f"{{{ast.unparse(piece)}}}"


if __name__ == "__main__":
    FILE.write_text(messages(), encoding="utf-8")
