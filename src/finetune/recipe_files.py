"""Recipe files: where they are found, and how one is read without trusting it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from finetune import packaged
from finetune.errors import UserError, shortlist
from finetune.names import did_you_mean

# A recipe is one screen. What is beyond these is a mistake or an attack.
MAX_BYTES = 64 * 1024
MAX_VALUES = 10_000
MAX_DEPTH = 20


def known(*folders: Path) -> dict[str, Path]:
    """Recipe names and their files: ours, those in `recipes/` of the current folder, in `folders`; the last wins."""
    everywhere = (packaged.recipes(), Path("recipes"), *folders)
    return {path.stem: path for folder in everywhere for path in sorted(folder.glob("*.yaml"))}


def find(choice: str, *folders: Path, where: str = "recipe") -> Path:
    """The file that `recipe=CHOICE` means: a path if it ends in .yaml or .yml, a name otherwise.

    Raises:
      UserError: there is none; the message has the nearest names.
    """
    names = known(*folders)
    if is_path(choice):
        path = Path(choice).expanduser()
        if path.is_file():
            return path
        guess = f"did you mean recipe={path.stem}?" if path.stem in names else "check the path"
        raise UserError("recipe", where, f"no file {choice}", guess)
    if choice not in names:
        raise UserError("recipe", where, f"no recipe named '{choice}'", did_you_mean(choice, names), *listing(names))
    return names[choice]


def is_path(choice: str) -> bool:
    """Whether `recipe=CHOICE` is a path and not a name."""
    return choice.endswith((".yaml", ".yml"))


def listing(names: dict[str, Path]) -> tuple[str, str]:
    """What may stand behind `recipe=`, for an error message."""
    where = "give one of these names, of a file recipes/NAME.yaml in the current folder, or a path ending in .yaml"
    return f"recipes: {shortlist(sorted(names), limit=12)}", where


def headline(path: Path) -> str:
    """The first line of a recipe's comment: what it does."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline(1000)
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def family(chosen: list[Path]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """File and content, by name, of some recipes and of every recipe that they derive from.

    A name in the `defaults` of a recipe is looked for beside it, then where `recipe=` looks.

    Raises:
      UserError: a file cannot be read, a name is unknown or means two files, or a recipe derives from itself.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}

    def add(path: Path, below: tuple[Path, ...]) -> None:
        if path.resolve() in below:
            raise UserError("recipe", str(path), "derives from itself", "a recipe and its base need different names")
        if path.stem not in found:
            found[path.stem] = (path, read(path))
        other, content = found[path.stem]
        if other.resolve() != path.resolve():
            raise UserError("recipe", str(path), f"and {other} have one name", "rename one, for both are needed here")
        for base in bases(content, path):
            add(find(base, path.parent, where=f"{path}: defaults"), (*below, path.resolve()))

    for path in chosen:
        add(path, ())
    return found


def bases(content: dict[str, Any], path: Path) -> list[str]:
    """The recipes in a `defaults` list. What else Hydra allows there (`/group: choice`) is left to Hydra."""
    defaults = content.get("defaults", [])
    if not isinstance(defaults, list):
        raise UserError("recipe", str(path), "defaults is no list", "write defaults: [NAME, _self_]")
    names = [entry.removeprefix("/recipe/") for entry in defaults if isinstance(entry, str)]
    return [name for name in names if name != "_self_" and not name.startswith(("/", "override ", "optional "))]


def read(path: Path) -> dict[str, Any]:
    """The content of a recipe file.

    Raises:
      UserError: it cannot be read or is no mapping; with the line if that is known.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError("recipe", str(path), f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError("recipe", str(path), "is no UTF-8 text", "recipe= takes a YAML file") from None
    if len(data) > MAX_BYTES:
        raise UserError("recipe", str(path), f"is larger than {MAX_BYTES // 1024} KiB", "is it a recipe?")
    return parse(text, str(path))


def parse(text: str, where: str) -> dict[str, Any]:
    """The mapping that a recipe's YAML text holds.

    Raises:
      UserError: it is no YAML, or no mapping, or too large once its aliases are written out.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > MAX_VALUES:
            what = f"has more than {MAX_VALUES} values once its aliases (*name) are written out"
            raise UserError("recipe", where, what)
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise _unreadable(error, text, where) from None
    except RecursionError:
        raise UserError("recipe", where, "is nested too deeply", "is it a recipe?") from None
    if content is None:  # nothing but comments
        return {}
    if not isinstance(content, dict):
        raise UserError("recipe", where, "is not a mapping of keys", "write key: value lines, as our own recipes do")
    return content


def differences(
    old_yaml: str, new_yaml: str, defaults: Mapping[str, Any] = MappingProxyType({})
) -> list[tuple[str, Any, Any]]:
    """The keys at which two stored recipes differ, with both values; None where one has no such key.

    What the old one lacks and the new one has counts as its default, where there is one.

    >>> differences("cut: fc7:0\\ntrain: {steps: 3}", "cut: fc6:0\\ntrain: {steps: 3}")
    [('cut', 'fc7:0', 'fc6:0')]
    """
    old, new = (flat(parse(text, "a stored recipe")) for text in (old_yaml, new_yaml))
    old = {key: value for key, value in defaults.items() if key in new} | old
    both = dict.fromkeys((*old, *new))
    return [(key, old.get(key), new.get(key)) for key in both if old.get(key) != new.get(key)]


def flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values; an empty mapping counts as a value.

    >>> flat({"train": {"steps": 3}, "source": {"feeds": {}}})
    {'train.steps': 3, 'source.feeds': {}}
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


class _Loader(yaml.SafeLoader):
    """YAML as OmegaConf reads it (1e-3 is a number, dates are text, a key stands once), and `3:0` is a tensor."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                what = f"the key '{key.value}' stands twice"
                raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where 1e-3 is text, 3:0 is the sexagesimal number 180, and 2020-01-01 is a date.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?
        |[0-9][0-9_]*[eE][-+]?[0-9]+
        |\.[0-9][0-9_]*([eE][-+]?[0-9]+)?
        |\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$""",
        re.X,
    ),
    list("-+0123456789."),
)


def _size(node: yaml.Node, sizes: dict[int, float], depth: int = 0) -> float:
    """How many values a node has once its aliases are written out; infinitely many if it contains itself."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(_size(child, sizes, depth + 1) for child in children)
    return sizes[id(node)]


def _unreadable(error: yaml.YAMLError, text: str, where: str) -> UserError:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return UserError("recipe", where, "is no YAML text", "recipe= takes a YAML file")
    lines = text.splitlines()
    # What is opened and not closed is noticed at the end of the file; the place to look at is where it was opened.
    mark = error.problem_mark
    if error.context_mark is not None and not "".join(lines[mark.line :]).strip():
        mark = error.context_mark
    line = lines[mark.line] if mark.line < len(lines) else ""
    tab = "\t" in line[: mark.column + 1]
    todo = "indent with spaces, not tabs" if tab else ""
    what = error.problem or "is no YAML"
    if what.startswith("but "):
        what = f"{error.context}, {what}"
    return UserError("recipe", f"{where}:{mark.line + 1}", what, todo, f"  {line.strip()}")
