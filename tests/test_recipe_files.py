"""A recipe file is found by name or path, and read without trusting it."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune import recipe_files
from finetune.errors import UserError


def refusal(action, *args) -> str:
    with pytest.raises(UserError) as caught:
        action(*args)
    text = str(caught.value)
    assert caught.value.status == 2
    assert len(text.splitlines()) <= 5
    return text


def test_a_name_is_ours_or_a_file_of_the_users_recipes_folder_which_wins(workdir):
    assert recipe_files.find("vgg_2class").parent.name == "recipes"
    Path("recipes").mkdir()
    Path("recipes/mine.yaml").touch()
    Path("recipes/vgg_2class.yaml").touch()
    assert recipe_files.find("mine") == Path("recipes/mine.yaml")
    assert recipe_files.find("vgg_2class") == Path("recipes/vgg_2class.yaml")


def test_an_unknown_name_lists_the_known(workdir):
    text = refusal(recipe_files.find, "vgg2class")
    assert "no recipe named 'vgg2class'; did you mean vgg_2class" in text
    assert "vgg_2class" in text.split("recipes: ")[1].splitlines()[0].split(", ")
    assert "path ending in .yaml" in text


def test_a_path_that_leads_nowhere(workdir):
    assert "no file none.yaml; check the path" in refusal(recipe_files.find, "none.yaml")
    assert "did you mean recipe=vgg_2class?" in refusal(recipe_files.find, "recipes/vgg_2class.yaml")


def test_the_headline_is_the_first_comment(workdir):
    Path("a.yaml").write_text("# Does this.\n# And that.\n")
    Path("b.yaml").write_text("cut: fc7:0\n")
    assert recipe_files.headline(Path("a.yaml")) == "Does this."
    assert recipe_files.headline(Path("b.yaml")) == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-.5", -0.5),
        ("1_000", 1000),
        (".inf", float("inf")),
        ("0x10", 16),
        ("007", "007"),
        ("3:0", "3:0"),
        ("3:30", "3:30"),
        ("fc7:0", "fc7:0"),
        ("2020-01-01", "2020-01-01"),
        ("no", False),
        ("~", None),
        ("v1.2", "v1.2"),
    ],
)
def test_a_value_is_what_it_looks_like(text, value):
    assert recipe_files.parse(f"key: {text}\n", "r.yaml") == {"key": value}


def test_a_tensor_may_be_a_key():
    text = "feeds: {keep_prob:0: 1.0, m/phase.train:0: {train: true, eval: false}}"
    assert recipe_files.parse(text, "r.yaml") == {
        "feeds": {"keep_prob:0": 1.0, "m/phase.train:0": {"train": True, "eval": False}}
    }


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_recipe_is_a_recipe(text):
    assert recipe_files.parse(text, "r.yaml") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n\tsteps: 3\n", "r.yaml:2: found character '\\t' that cannot start any token; indent with spaces"),
        ("cut: a\ncut: b\n", "r.yaml:2: the key 'cut' stands twice"),
        ("train: {steps: 1, steps: 2}\n", "r.yaml:1: the key 'steps' stands twice"),
        ("cut: a: b\n", "r.yaml:1: mapping values are not allowed here"),
        ("a: 1\ncut: 'fc7\n\n", "r.yaml:2: found unexpected end of stream"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: expected a single document in the stream"),
        ("cut: !!python/name:os.system\n", "r.yaml:1: could not determine a constructor"),
        ("- cut\n", "is not a mapping of keys"),
        ("cut\n", "is not a mapping of keys"),
        ("\0", "is no YAML text"),
        ("learn: [" + "[" * 50 + "]" * 51 + "\n", "is nested too deeply"),
        ("learn: &a [*a]\n", "once its aliases (*name) are written out"),
    ],
)
def test_139_what_is_no_recipe_is_refused_with_its_line(text, message):
    assert message in refusal(recipe_files.parse, text, "r.yaml")


MARK = "\ufeff"  # with which some editors begin a file


@pytest.mark.parametrize("written", [f"{MARK}{{}}", "{}", "# a comment\n{}"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_139_a_byte_order_mark_and_the_line_ends_of_other_systems_change_nothing(workdir, written, end):
    text = written.format("cut: fc7:0\ntrain:\n  steps: 3\nlearn: [\n  [conv5, 1]\n]\n")
    Path("mine.yaml").write_bytes(text.replace("\n", end).encode())
    assert recipe_files.read(Path("mine.yaml")) == {"cut": "fc7:0", "train": {"steps": 3}, "learn": [["conv5", 1]]}
    assert recipe_files.headline(Path("mine.yaml")) == ("a comment" if "comment" in text else "")


def test_139_lines_are_counted_whatever_ends_them(workdir):
    Path("mine.yaml").write_bytes(f"{MARK}cut: a\r\ntrain: {{}}\r\ncut: b\r\n".encode())
    assert "mine.yaml:3: the key 'cut' stands twice" in refusal(recipe_files.read, Path("mine.yaml"))


def test_an_alias_bomb_is_refused_before_it_is_written_out():
    levels = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" for i in range(1, 10)]
    text = refusal(recipe_files.parse, "k0: &k0 [x]\n" + "".join(levels), "r.yaml")
    assert "more than 10000 values" in text


def test_a_file_that_is_no_text_or_far_too_long(workdir):
    Path("a.yaml").write_bytes(b"\xff\xfe")
    Path("b.yaml").write_text("#" * 100_000)
    assert "is no UTF-8 text" in refusal(recipe_files.read, Path("a.yaml"))
    assert "is larger than 64 KiB" in refusal(recipe_files.read, Path("b.yaml"))
    assert "cannot be read (Is a directory)" in refusal(recipe_files.read, Path("."))


def test_a_family_is_a_recipe_and_what_it_derives_from(workdir):
    Path("other").mkdir()
    Path("other/child.yaml").write_text("defaults: [parent, _self_]\n")
    Path("other/parent.yaml").write_text("defaults: [/recipe/vgg_2class]\n")
    assert list(recipe_files.family([Path("other/child.yaml")])) == ["child", "parent", "vgg_2class"]


def test_a_recipe_cannot_derive_from_itself(workdir):
    Path("a.yaml").write_text("defaults: [b]\n")
    Path("b.yaml").write_text("defaults: [a]\n")
    assert "a.yaml: derives from itself" in refusal(recipe_files.family, [Path("a.yaml")])


def test_two_recipes_of_one_name_cannot_be_told_apart(workdir):
    Path("x").mkdir()
    Path("x/a.yaml").touch()
    Path("a.yaml").touch()
    assert "a.yaml have one name" in refusal(recipe_files.family, [Path("a.yaml"), Path("x/a.yaml")])


@pytest.mark.parametrize(
    ("defaults", "message"), [("base", "defaults is no list"), ("[nope]", "a.yaml: defaults: no recipe named 'nope'")]
)
def test_a_defaults_list_that_leads_nowhere(workdir, defaults, message):
    Path("a.yaml").write_text(f"defaults: {defaults}\n")
    assert message in refusal(recipe_files.family, [Path("a.yaml")])


def test_what_an_older_recipe_lacks_counts_as_its_default():
    new = "cut: fc7:0\nhead: {loss: softmax, kind: mlp}"
    assert recipe_files.differences(
        "cut: fc7:0", new, {"head.loss": "softmax", "head.kind": "linear", "feeds": {}}
    ) == [("head.kind", "linear", "mlp")]
