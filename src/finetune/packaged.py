"""Where our own configs, recipes and demo assets lie, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

from finetune.names import did_you_mean

_PACKAGE = Path(__file__).resolve().parent


def is_checkout() -> bool:
    """Whether the package is run where people change it: from a checkout, or an editable install of one."""
    return configs() != _PACKAGE / "configs"


def configs() -> Path:
    """The folder that composing starts from."""
    return _ours("configs")


def recipes() -> Path:
    """The folder of the recipes that come with the package."""
    return _ours("recipes")


def asset(name: str) -> str:
    """The path of something that ships inside the package; `${packaged:NAME}` in a recipe.

    A recipe that names its files this way can be stored and read on another machine.

    Raises:
      ValueError: the package has nothing of that name.
    """
    path = _PACKAGE / name
    if not path.exists() and not any(path.parent.glob(f"{path.name}.*")):
        known = sorted(p.relative_to(_PACKAGE).as_posix() for p in (_PACKAGE / "demo").glob("*") if p.is_dir())
        guess = did_you_mean(name, known) or f"it has {', '.join(known) or 'none'}"
        raise ValueError(f"the package has no asset '{name}'; {guess}")
    return str(path)


def _ours(folder: str) -> Path:
    # The wheel takes the folders into the package; a checkout keeps them at its top, where people look for them.
    installed = _PACKAGE / folder
    return installed if installed.is_dir() else _PACKAGE.parents[1] / folder
