from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from finetune.pages.markup import Markup, join, table, tag


class Text(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_data(self, data: str) -> None:
        self.found.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_no_text_becomes_an_element_whatever_it_is():
    random = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(random.choice(list("<>&\"'/ !-=ab;#x\n\u202e\u00e9"), 20))
        seen = Text(tag("p", text, title=text))
        assert seen.tags == ["p"]
        assert "".join(seen.found) == text
        assert seen.attributes == [("title", text)]


def test_what_no_document_may_hold_is_replaced():
    assert join("a\x00b\x1bc\udc80d\uffffe") == "a\ufffdb\ufffdc\ufffdd\ufffde"
    join("\ufffd" + "\U0001f600").encode()


def test_attributes():
    assert tag("a", class_="x", aria_label="y", hidden=True, id=None, open=False) == (
        '<a class="x" aria-label="y" hidden></a>'
    )
    assert tag("img", src="data:,") == '<img src="data:,">'


def test_markup_stays_and_nothing_is_nothing():
    assert join(["<", None, Markup("<br>"), [tag("i", "&")]]) == "&lt;<br><i>&amp;</i>"


def test_a_table_names_its_rows_and_columns():
    made = table(["run", "loss"], [["a", "1"], ["b", "2"]], "caption", numbers=[1])
    assert made.count('scope="col"') == made.count('scope="row"') == 2
    assert made.count('<td class="number">') == 2
