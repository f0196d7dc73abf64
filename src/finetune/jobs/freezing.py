"""What a job runs, copied when it is submitted: later changes of recipe and code are of no consequence to it.

A job may wait for days, and it begins again whenever its time is over: each start has to be of the same program.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune import __version__, own_functions, packaged
from finetune.jobs import job_folder
from finetune.recipe import Recipe, named_heads
from finetune.results.checkpoints import cannot_be_written

_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")
_ASSETS = "demo"  # most of the package; nothing but `${packaged:demo/…}` reads it

# Starting a folder makes it the first place that modules are looked for in, before the current folder.
_STARTER = '''\
"""Starts finetune as this job was submitted with it."""

import runpy
import sys

import finetune

if finetune.__version__ != "{version}":
    found = f"is {{finetune.__version__}} here, and the job was submitted with {version}"
    print(f"error[recipe] finetune: {{found}}; submit it again", file=sys.stderr)
    sys.exit(2)
runpy.run_module("finetune", run_name="__main__", alter_sys=True)
'''


def freeze(folder: Path, recipes: Sequence[tuple[Recipe, str]], here: Path) -> None:
    """Writes into the folder of a job what its tasks run: recipes, with their texts, and code.

    Args:
      here: the folder in which the user's own modules are looked for.

    Raises:
      UserError: it cannot be written.
    """
    code = folder / job_folder.CODE
    try:
        code.mkdir()
        for task, (_, text) in enumerate(recipes):
            job_folder.recipe_of(folder, task).write_text(text, encoding="utf-8")
        (code / "__main__.py").write_text(_STARTER.format(version=__version__), encoding="utf-8")
        if packaged.is_checkout():
            _copy_package(code / "finetune", any(f"${{packaged:{_ASSETS}/" in text for _, text in recipes))
        for module in own_modules({path for recipe, _ in recipes for path in functions_in(recipe)}, here):
            if module.is_dir():
                shutil.copytree(module, code / module.name, ignore=_LEFT_OUT)
            else:
                shutil.copy(module, code)
    except (OSError, shutil.Error) as error:
        raise cannot_be_written(folder, error) from error


def functions_in(recipe: Recipe) -> list[str]:
    """The functions of the user's own that a recipe names.

    >>> from finetune.recipe import Head
    >>> functions_in(Recipe(head=Head(kind="mine:gated")))
    ['mine:gated']
    """
    heads = named_heads(recipe).values()
    named = [head.kind for head in heads] + [head.objective for head in heads]
    if recipe.data.kind == "python":
        named += [recipe.data.path, recipe.data.eval_path]
    return [name for name in named if name is not None and own_functions.is_path(name)]


def own_modules(functions: Iterable[str], here: Path) -> list[Path]:
    """The modules and packages of a folder that these functions need, as far as import statements say it."""
    found: dict[str, Path] = {}
    todo = [own_functions.module_of(path).partition(".")[0] for path in sorted(functions)]
    while todo:
        name = todo.pop()
        place = here / name
        module = place if place.is_dir() else here / f"{name}.py"
        if name in found or not module.exists():
            continue
        found[name] = module
        for file in sorted(module.rglob("*.py")) if module.is_dir() else [module]:
            todo += _imported(file)
    return [found[name] for name in sorted(found)]


def _imported(file: Path) -> list[str]:
    """The modules, by the first part of their names, that a file imports."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # it says so itself when it is imported
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return [name.partition(".")[0] for name in names]


def _copy_package(to: Path, with_assets: bool) -> None:
    """The package as a wheel has it: with its configs and recipes inside."""
    package = Path(__file__).resolve().parents[1]
    assets = set() if with_assets else {str(package / _ASSETS)}

    def left_out(folder: str, names: list[str]) -> set[str]:
        return {*_LEFT_OUT(folder, names), *(name for name in names if f"{folder}/{name}" in assets)}

    shutil.copytree(package, to, ignore=left_out)
    shutil.copytree(packaged.configs(), to / "configs")
    shutil.copytree(packaged.recipes(), to / "recipes")
