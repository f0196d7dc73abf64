from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from finetune.pages import page
from finetune.results.run_files import GLIMPSES, read

VOID = {"br", "hr", "img", "link", "meta"}
CLASSES = ("<script>alert(1)<", 'b&amp;"c')  # as the run folder has them


class Looked(HTMLParser):
    """Refuses what is not balanced; keeps the text and every element with its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def pictures(lines: Sequence[int]) -> dict[int, dict[str, str]]:
    return {line: {"image": f"data:image/png;base64,{line:04}"} for line in lines}


def test_a_page_has_what_was_found(run_folder: Path):
    seen = Looked(page.write(run_folder, pictures).read_text())
    record = json.loads((run_folder / "run.json").read_text())
    found = json.loads((run_folder / "evaluation.json").read_text())["heads"]["head"]
    assert record["result"] in seen.text
    for metric in found["metrics"].values():
        assert f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})" in seen.text
    for kind, metrics in found["baselines"].items():
        assert kind in seen.text
        assert f"{metrics['accuracy']:.3f}" in seen.text
    assert all(name in seen.text for name in (*CLASSES, *record["variables"], *record["versions"]))
    assert all(f"{count:,}" in seen.words for row in found["confusion"] for count in row)
    assert "14 of 14 tensors identical to the checkpoint" in seen.text
    assert "bit-identical to the source" in seen.text
    assert record["digests"]["data.path"]["held_out"] in seen.words
    assert (run_folder / "recipe.yaml").read_text() in seen.words


def test_a_page_runs_nothing_loads_nothing_and_can_be_read_without_looking(run_folder: Path):
    text = page.write(run_folder, pictures).read_text()
    seen = Looked(text)
    assert {name for name, _ in seen.elements} & {"script", "iframe", "object", "link", "form", "base"} == set()
    for _, attributes in seen.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert all(image["alt"] for image in seen.all("img"))
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in seen.all("svg"))
    assert len(seen.all("svg")) >= 5
    assert all(cell["scope"] in ("row", "col") for cell in seen.all("th"))
    assert {f"#{e['id']}" for _, e in seen.elements if "id" in e} >= {a["href"] for a in seen.all("a")}
    assert len(text) < 2_000_000


def test_figures_show_the_numbers_that_were_logged(run_folder: Path):
    seen = Looked(page.page(read(run_folder)))
    logged = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    held = [entry["accuracy"] for entry in logged if entry["phase"] == "eval"]
    (accuracy,) = [svg["aria-label"] or "" for svg in seen.all("svg") if str(svg["aria-label"]).startswith("accuracy:")]
    assert f"held out from {held[0]:.4g} at step 0 to {held[-1]:.4g} at 4" in accuracy
    assert "linear probe" in accuracy
    # Of the held-out loss: a dot for each evaluation, and a ring at the best.
    loss = page.page(read(run_folder)).partition("<figcaption>loss</figcaption>")[2].partition("</svg>")[0]
    assert loss.count("<circle") == len(held) + 1


def test_the_same_folder_gives_the_same_page(run_folder: Path, tmp_path: Path):
    first = page.write(run_folder, pictures).read_bytes()
    with (run_folder / "train.log").open("a") as log:
        log.write("2099-01-01 00:00:00 report: elsewhere\n")  # what the run tells of its page
    assert page.write(run_folder).read_bytes() == first
    elsewhere = Path(shutil.copytree(run_folder, tmp_path / "copy" / run_folder.name))
    assert page.write(elsewhere).read_bytes() == first
    assert page.write(run_folder, out=tmp_path / "out.html").read_bytes() == first


def test_pictures_are_kept_for_the_next_page(run_folder: Path):
    asked: list[int] = []

    def look(lines: Sequence[int]) -> dict[int, dict[str, str]]:
        asked.extend(lines)
        return pictures(lines)

    page.write(run_folder, look)
    held_out = read(run_folder).evaluation["examples"]
    assert asked == sorted(set(asked))
    assert 0 < len(asked) <= min(24, held_out)
    assert set(asked) <= set(range(held_out))
    assert sorted(map(int, json.loads((run_folder / GLIMPSES).read_text()))) == asked
    shown = {image["src"] for image in Looked((run_folder / page.PAGE).read_text()).all("img")}
    assert {pictures([line])[line]["image"] for line in asked} <= shown


def test_a_killed_run_has_a_page_of_what_there_is(run_folder: Path):
    for name in ("evaluation.json", "predictions.csv"):
        (run_folder / name).unlink()
    record = json.loads((run_folder / "run.json").read_text())
    for key in ("result", "step", "metrics", "best", "intervals"):
        del record[key]
    (run_folder / "run.json").write_text(json.dumps({**record, "status": "running"}))
    metrics = run_folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join(lines[:3]) + '\n{"step": 4, "pha')
    seen = Looked(page.write(run_folder).read_text())
    assert "Not finished: step 2 of 4" in seen.text
    assert "What learned" in seen.text
    assert "By class" not in seen.text


def test_a_folder_with_nothing_but_a_recipe_has_a_page(run_folder: Path):
    for file in run_folder.iterdir():
        if file.name != "recipe.yaml":
            file.unlink()
    assert "Not finished: step 0 of 4" in Looked(page.write(run_folder).read_text()).text


def test_a_page_that_cannot_be_written_costs_no_run(run_folder: Path):
    def broken(lines: Sequence[int]) -> dict[int, dict[str, str]]:
        raise OSError("the data\nhas gone")

    said = page.written(run_folder, broken)
    assert said == r"report: none, for it cannot be written (OSError: the data\nhas gone)"
    assert page.written(run_folder, pictures) == f"report: {run_folder / page.PAGE}"


def test_numbers_that_are_none_break_no_figure(run_folder: Path):
    bad = {"step": 4, "phase": "train", "loss": np.nan, "gradient_norm": np.inf}
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(bad) + "\n")
    text = page.write(run_folder).read_text()
    assert "nan" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL).lower()
