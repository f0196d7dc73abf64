"""The words after a verb, parsed; what is wrong with them is said in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from finetune.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser that raises `UserError`, and neither abbreviates nor prints help: the room of the verb has it."""

    def __init__(self, verb: str, usage: str):
        super().__init__(prog=verb, add_help=False, allow_abbrev=False)
        self._usage = usage

    def error(self, message: str) -> NoReturn:
        raise UserError("recipe", self.prog, message, self._usage)
