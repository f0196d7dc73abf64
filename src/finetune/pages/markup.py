"""HTML and SVG as text that is escaped and balanced by the way it is made.

>>> print(tag("p", "a < b & ", tag("b", "c"), title='say "hi"'))
<p title="say &quot;hi&quot;">a &lt; b &amp; <b>c</b></p>
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_VOID = frozenset({"br", "hr", "img", "link", "meta"})
_BARRED = re.compile(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")  # from a document


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


Content = str | None | Iterable["Content"]
Attribute = str | int | float | bool | None


def tag(name: str, /, *content: Content, **attributes: Attribute) -> Markup:
    """An element; what is plain text in it is escaped.

    An underscore in the name of an attribute is a hyphen, and one at its end is none. None and False leave one out.
    """
    shown = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_escaped(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{shown}>" if name in _VOID else f"<{name}{shown}>{join(content)}</{name}>")


def join(content: Content) -> Markup:
    """Pieces one after the other."""
    if content is None:
        return Markup()
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(_escaped(content))
    return Markup("".join(map(join, content)))


def table(
    head: Iterable[Content], rows: Iterable[Iterable[Content]], caption: str = "", numbers: Iterable[int] = ()
) -> Markup:
    """A table whose first column names its rows.

    Args:
      numbers: the columns that stand at the right.
    """
    right = set(numbers)

    def side(column: int) -> str | None:
        return "number" if column in right else None

    titles = [tag("th", cell, scope="col", class_=side(i)) for i, cell in enumerate(head)]
    body = [
        tag(
            "tr",
            [
                tag("td", cell, class_=side(i)) if i else tag("th", cell, scope="row", class_=side(i))
                for i, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    parts = tag("caption", caption) if caption else None, tag("thead", tag("tr", titles)), tag("tbody", body)
    return tag("div", tag("table", parts), class_="wide")


def facts(rows: Iterable[tuple[Content, Content]]) -> Markup:
    """What is known, as a list of names and values."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows])


def folded(summary: Content, *content: Content) -> Markup:
    """What only those see who ask for it."""
    return tag("details", tag("summary", summary), content)


def _escaped(text: str) -> str:
    return html.escape(_BARRED.sub("\ufffd", text.replace("\r\n", "\n")))
